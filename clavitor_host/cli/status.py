"""`clavitor status`: what the running server says, and what the database holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clavitor_host.cli.exit_codes import ExitCode
from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.prompts import read_text
from clavitor_host.errors import ClavitorError
from clavitor_host.terminal import facts, write_json

app = typer.Typer()


@app.command()
async def status(
    call: Invocation,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Ask the server itself, with the API token in FILE (- for standard input), not the database.",
        ),
    ] = None,
) -> None:
    """Show whether the server is ready, and the state of the vault.

    Exits with 5 when the server is not ready.
    """
    server = _ask_server(call)
    if token_file is not None:
        vault = _ask_report(call, read_text(token_file).strip())
    else:
        vault = await _read_database(call)
    ready = server["state"] == "ready"
    if call.json:
        write_json({"server": server, "vault": vault})
    else:
        facts([("server", _sentence(server)), *_flat(vault)])
    if not ready:
        raise typer.Exit(ExitCode.UNHEALTHY)


def _ask_server(call: Invocation) -> dict[str, Any]:
    from clavitor_host.cli.local_http import NoAnswer, get

    bind = call.config.host.bind
    try:
        code, body = get(call.config.host, "/readyz")
    except NoAnswer as error:
        return {"state": "not running", "bind": bind, "reason": str(error)}
    checks = body.get("checks", {}) if isinstance(body, dict) else {}
    return {"state": "ready" if code == 200 else "not ready", "bind": bind, "checks": checks}


def _ask_report(call: Invocation, token: str) -> dict[str, Any]:
    from clavitor_host.cli.local_http import NoAnswer, get

    try:
        code, body = get(call.config.host, "/api/v1/status", token)
    except NoAnswer as error:
        raise ClavitorError(f"the server does not answer: {error}") from None
    if code != 200 or not isinstance(body, dict):
        detail = body.get("detail", "") if isinstance(body, dict) else ""
        raise ClavitorError(f"the server answers {code}: {detail}")
    return body


async def _read_database(call: Invocation) -> dict[str, Any]:
    from clavitor_host.web.status import report

    async with call.offline() as host:
        found = await report(host)
    del found["uptime_seconds"]  # this process's, not the server's
    return found


def _sentence(server: dict[str, Any]) -> str:
    failing = [f"{name}: {state}" for name, state in server.get("checks", {}).items() if state != "ok"]
    detail = server.get("reason") or "; ".join(failing)
    return f"{server['state']} at {server['bind']}" + (f" ({detail})" if detail else "")


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        words = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, dict):
            pairs.extend(_flat(value, "" if name == "plugins" else f"{words} "))
        else:
            pairs.append((words, value))
    return pairs
