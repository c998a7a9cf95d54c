"""Writes the reference pages that are made from the code: `make references`. The suite fails when one is stale."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clavitor_host import API_VERSION, api, hookspecs
from clavitor_host.app import around, create_host
from clavitor_host.cli.reference import render as cli_page
from clavitor_host.config.reference import render as configuration_page
from clavitor_host.hookspecs import contract_of
from clavitor_host.plugins.configure import config_models
from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.testing import settings
from clavitor_host.web.openapi import document

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTE = "This page is generated from the code: `make references`.\n"


def pages() -> dict[str, str]:
    """Return every generated page: `{file name: text}`."""
    bundle = frozen_set()
    with tempfile.TemporaryDirectory() as folder:
        app = create_host(settings(Path(folder), bundle), bundle)
    web = around(app)
    return {
        "hooks.md": hooks_page(),
        "api.md": api_page(document(web, app.host)),
        "metrics.md": metrics_page(app.host.metrics.describe()),
        "cli.md": cli_page(),
        "configuration.md": configuration_page(config_models(app.host.registry)),
    }


def hooks_page() -> str:
    """Return the plugin contract: every hook, its kind, colour, arguments and meaning."""
    introduction = inspect.cleandoc(hookspecs.__doc__ or "").partition("\n")[2].strip()
    lines = ["# Hooks", "", NOTE, f"Plugin contract version {API_VERSION}.", "", introduction, ""]
    for name, spec in vars(hookspecs).items():
        if "clavitor_contract" not in getattr(spec, "__dict__", {}):
            continue
        contract = contract_of(spec)
        limit = f", within {contract.timeout:g} s" if contract.colour == "async" else ""
        signature = re.sub("['\"]", "", str(inspect.signature(spec)))
        lines += [
            f"## `{name}`",
            "",
            f"*{contract.kind}, {contract.colour}{limit}, since {contract.since}*",
            "",
            "```python",
            f"{'async ' if contract.colour == 'async' else ''}def {name}{signature}",
            "```",
            "",
            inspect.cleandoc(spec.__doc__ or ""),
            "",
        ]
    lines += ["## What plugins import", "", "`clavitor_host.hookspecs.hookimpl`, and from `clavitor_host.api`:", ""]
    for name in sorted(api.__all__):
        value = getattr(api, name)
        first = (inspect.getdoc(value) or "").partition("\n")[0] if not isinstance(value, str) else ""
        lines.append(f"- `{name}`{': ' + first if first else ''}")
    return "\n".join(lines) + "\n"


def metrics_page(infos: list[Any]) -> str:
    """Return every metric of the community edition."""
    lines = ["# Metrics", "", NOTE, "At `/api/v1/prometheus`: from loopback, with a metrics token, or with the", ""]
    lines[-2] += " token of `CLAVITOR_METRICS_TOKEN`."
    lines += ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for info in infos:
        labels = ", ".join(f"`{label}`" for label in info.labels)
        lines.append(f"| `{info.name}` | {info.type} | {labels} | {info.help} |")
    return "\n".join(lines) + "\n"


def api_page(openapi: Mapping[str, Any]) -> str:
    """Return every operation of the HTTP API."""
    lines = ["# HTTP API", "", NOTE]
    lines += [
        "A running server describes itself at `/api/v1/openapi.json` and, for people, at `/api/docs`. Send",
        "`Authorization: Bearer <token>`. Times are µs since the epoch. An error is `application/problem+json`",
        "(RFC 9457) with a stable `code`.",
        "",
    ]
    tags: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            tags.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    for tag, found in tags.items():
        lines += [f"## {tag.capitalize()}", ""]
        for method, path, operation in found:
            lines += [f"### `{method} {path}`", "", operation["summary"] + "."]
            if operation.get("description"):
                lines += ["", inspect.cleandoc(operation["description"])]
            facts = [_parameter(item) for item in operation["parameters"] if item["in"] != "path"]
            body = operation.get("requestBody")
            if body:
                facts.append(f"body: {_body(body['content'], openapi['components']['schemas'])}")
            facts.append("answers: " + ", ".join(operation["responses"]))
            lines += ["", *(f"- {fact}" for fact in facts), ""]
    return "\n".join(lines)


def _parameter(item: Mapping[str, Any]) -> str:
    schema = item["schema"]
    kind = " or ".join(f"`{value}`" for value in schema["enum"]) if "enum" in schema else schema["type"]
    where = "" if item["in"] == "query" else f" ({item['in']})"
    return f"`{item['name']}`{where}: {kind}. {item['description']}"


def _body(content: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    if "application/json" not in content:
        return ", ".join(content)
    return _members(schemas[content["application/json"]["schema"]["$ref"].rpartition("/")[2]])


def _members(schema: Mapping[str, Any]) -> str:
    if "properties" not in schema:
        return f"{schema['type']}; {schema.get('description', '')}".rstrip("; ")
    required = set(schema.get("required", ()))
    return ", ".join(f"`{name}`{'' if name in required else ' (optional)'}" for name in schema["properties"])


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file_name, text in pages().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
