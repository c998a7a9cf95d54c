"""The reference page of the command line, generated from the commands themselves."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any

from clavitor_host.cli.exit_codes import MEANING
from clavitor_host.cli.flags import GLOBAL_FLAGS
from clavitor_host.cli.root import COMMANDS, root_command

PAGE = "docs/reference/cli.md"

_INTRODUCTION = """\
# Command line

This page is generated from the commands: `.venv/bin/python -m clavitor_host.cli.reference > docs/reference/cli.md`.

Results go to standard output, everything else to standard error. An error is one line, `error: …`, and an exit code;
`CLAVITOR_LOG_LEVEL=debug` adds the trace of an unexpected one. `clavitor --install-completion` sets up completion
for your shell. Commands that work on the database need no running server, and may run beside one.
"""


def render() -> str:
    """Return the reference page of the host's own commands as Markdown."""
    root = root_command()
    parts = [_INTRODUCTION, _exit_codes(), _global_flags(root)]
    with root.make_context("clavitor", ["--help"], resilient_parsing=True) as ctx:
        for name in COMMANDS:
            parts.extend(_sections(root.get_command(ctx, name), f"clavitor {name}"))
    return "\n".join(parts)


def drift(file: Path) -> str:
    """Return how `file` differs from the page as it should be, as a unified diff; "" when it is right."""
    now = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return "".join(difflib.unified_diff(now, render().splitlines(keepends=True), str(file), "generated"))


def _exit_codes() -> str:
    rows = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in MEANING.items())
    return f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}"


def _global_flags(root: Any) -> str:
    rows = "".join(_flag_row(parameter) for parameter in root.params if parameter.name in GLOBAL_FLAGS)
    return f"## Flags of every command\n\nThey may stand before the command or after it.\n\n{_FLAGS_HEAD}{rows}"


def _sections(command: Any, path: str) -> Iterator[str]:
    subcommands = getattr(command, "commands", None)
    if subcommands:
        yield f"## `{path}`\n\n{_help(command)}\n"
        for name, subcommand in subcommands.items():
            yield from _sections(subcommand, f"{path} {name}")
        return
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    flags = [p for p in command.params if p.param_type_name == "option" and p.name not in GLOBAL_FLAGS]
    level = "##" if path.count(" ") == 1 else "###"
    usage = " ".join([path, *(argument.metavar for argument in arguments)])
    rows = "".join(f"| `{argument.metavar}` | | {argument.help} |\n" for argument in arguments)
    rows += "".join(_flag_row(flag) for flag in flags)
    yield f"{level} `{usage}`\n\n{_help(command)}\n" + (f"\n{_FLAGS_HEAD}{rows}" if rows else "")


_FLAGS_HEAD = "| argument or flag | default | meaning |\n|---|---|---|\n"


def _flag_row(flag: Any) -> str:
    kind = type(flag.default)
    choices = "\\|".join(member.value for member in kind) if isinstance(kind, EnumType) else "TEXT"
    value = "" if flag.is_flag else f" {flag.metavar or choices}"
    default = "" if flag.default in (None, False) else f"`{getattr(flag.default, 'value', flag.default)}`"
    return f"| `{', '.join(flag.opts)}{value}` | {default} | {flag.help} |\n"


def _help(command: Any) -> str:
    return inspect.cleandoc(command.help or "")


if __name__ == "__main__":
    print(render(), end="")
