"""`clavitor telemetry`: what would be sent, and how sending fares."""

from __future__ import annotations

import json
from typing import Any

import typer

from clavitor_commercial.telemetry import Telemetry
from clavitor_host.api import Host, terminal

UNHEALTHY = 5
"""Exit code: the command worked, and what it checked is not well."""

app = typer.Typer(
    name="telemetry", help="Show what is sent to the telemetry host, and how that fares.", no_args_is_help=True
)


@app.command()
async def preview(ctx: typer.Context) -> None:
    """Show the exact body of the next report, without sending it.

    The `id` is another one in each report. `uptime_seconds` is known to the running server alone: here it is null.
    """
    from clavitor_commercial.report import report_body

    async with ctx.obj.offline() as host:
        telemetry = _telemetry(host)
        status = {**await host.status(), "uptime_seconds": None}
        body = report_body(status, telemetry.config, item_id="0" * 32, at=host.clock.now_us())
    if ctx.obj.json:
        print(json.dumps(body, separators=(",", ":")))
        return
    config = telemetry.config
    terminal.note(
        f"POST {config.telemetry_host}/v1/metrics, every {config.telemetry_interval} s"
        if telemetry.enabled
        else "Telemetry is off: nothing is sent. With a telemetry host this would be:"
    )
    print(json.dumps(body, indent=2))


@app.command()
async def status(ctx: typer.Context) -> None:
    """Show whether telemetry is on, what waits to be sent, and what went wrong last.

    Exits with 5 when nothing was delivered for long.
    """
    async with ctx.obj.offline() as host:
        telemetry = _telemetry(host)
        report = await telemetry.report()
        trouble = await telemetry.trouble()
    if ctx.obj.json:
        terminal.write_json({**report, "trouble": trouble})
    else:
        _write(report, trouble)
    if trouble:
        raise typer.Exit(UNHEALTHY)


def _telemetry(host: Host) -> Telemetry:
    found = host.state["commercial"]
    assert isinstance(found, Telemetry)
    return found


def _write(report: dict[str, Any], trouble: str | None) -> None:
    lines = [("telemetry", f"on, to {report['telemetry_host']}" if report["telemetry"] else "off")]
    for name in ("alerts", "reports"):
        fares = report[name]
        waiting = f"{fares['spooled']} waiting"
        if fares["spooled"]:
            waiting += f", the oldest since {terminal.moment(fares['oldest_at'])}"
        lines.append((name, waiting))
        lines.append((f"{name} last success", terminal.moment(fares["last_success_at"]) or "never"))
        if fares["last_error"]:
            lines.append((f"{name} last error", f"{terminal.moment(fares['last_error_at'])} {fares['last_error']}"))
    terminal.facts(lines)
    if trouble:
        terminal.note(trouble)
