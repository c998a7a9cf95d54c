"""Running one command line: every error is one line on standard error and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from clavitor_host.cli.exit_codes import ExitCode
from clavitor_host.cli.prompts import UsageError
from clavitor_host.cli.quick import plain_serve
from clavitor_host.errors import ClavitorError, ConfigError, StartError, StorageUnavailable


def run(arguments: Sequence[str]) -> int:
    """Run `clavitor` with the arguments after its name. Returns the exit code; never raises, never shows a trace."""
    try:
        serving = plain_serve(arguments)
        if serving is not None:
            from clavitor_host.cli.server import run_server

            return run_server(serving)
        from clavitor_host.cli.root import root_command

        gc.enable()
        code = root_command().main(list(arguments), prog_name="clavitor", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 - the last stop before the shell
        return _report(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return code if isinstance(code, int) else ExitCode.OK


def _report(error: Exception) -> int:
    if isinstance(error, ClavitorError):
        return _say(str(error), _code_of(error))
    from typer import Abort, TyperException

    if isinstance(error, TyperException):
        return _usage(error)
    if isinstance(error, Abort):
        return _say("aborted", ExitCode.FAILED)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return ExitCode.FAILED
    return _unexpected(error)


def _code_of(error: ClavitorError) -> ExitCode:
    if isinstance(error, UsageError):
        return ExitCode.USAGE
    if isinstance(error, ConfigError):
        return ExitCode.CONFIG
    if isinstance(error, StartError | StorageUnavailable) or _is_no_answer(error):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED


def _is_no_answer(error: ClavitorError) -> bool:
    from clavitor_host.client.errors import ServerUnavailable

    return isinstance(error, ServerUnavailable)


def _usage(error: Exception) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return ExitCode.USAGE
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    hint = f"; see: {context.command_path} --help" if context is not None else ""
    return _say(message + hint, getattr(error, "exit_code", ExitCode.USAGE))


def _unexpected(error: Exception) -> int:
    if os.environ.get("CLAVITOR_LOG_LEVEL", "").lower() == "debug":
        import traceback

        traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"
    return _say(f"{text} (unexpected; run with CLAVITOR_LOG_LEVEL=debug for the trace)", ExitCode.FAILED)


def _say(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
