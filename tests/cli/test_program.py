"""The program as a whole: help, flags, errors in one line, exit codes, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clavitor_host import __version__
from clavitor_host.cli import main
from clavitor_host.cli.exit_codes import MEANING, ExitCode
from clavitor_host.cli.quick import plain_serve
from clavitor_host.cli.reference import PAGE, drift
from clavitor_host.cli.root import COMMANDS, root_command
from clavitor_host.errors import ConfigError, PluginError, StartError, StorageUnavailable, problem

ROOT = Path(__file__).parents[2]


def test_the_version(clavitor: Any) -> None:
    for arguments in (("--version",), ("--version", "--json")):
        result = clavitor(*arguments)
        assert (result.code, result.out, result.err) == (0, f"clavitor {__version__}\n", "")


def test_help_names_every_command(clavitor: Any) -> None:
    result = clavitor("--help")
    assert result.code == 0
    for name in COMMANDS:
        assert name in result.out


def test_without_a_command_it_shows_its_help_as_a_usage_error(clavitor: Any) -> None:
    result = clavitor()
    assert result.code == ExitCode.USAGE
    assert "Usage: clavitor" in result.out + result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("usr",), "No such command 'usr'. Did you mean 'user'?; see: clavitor --help"),
        (("user", "crate"), "No such command 'crate'. Did you mean 'create'?; see: clavitor user --help"),
        (("user", "create"), "Missing argument 'NAME'; see: clavitor user create --help"),
        (("serve", "--prot", "1"), "No such option"),
        (("serve", "--workers", "many"), "Invalid value for '--workers'"),
        (("user", "create", "a", "--role", "KING"), "Invalid value for '--role'"),
        (("token", "create"), "a user token needs --user NAME"),
        (("token", "create", "--user", "a", "--kind", "metrics"), "--user does not go with --kind metrics"),
        (("token", "create", "--user", "a", "--expires", "soon"), "--expires: expected 90d, 12h, 30m or a date"),
        (("token", "create", "--user", "a", "--expires", "2001-01-01"), "--expires: 2001-01-01 has passed"),
        (("audit", "export", "--json", "--format", "csv"), "--json does not go with --format csv"),
        (("audit", "export", "--since", "x"), "--since: expected a date or time"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_a_wrong_configuration_is_exit_code_3(clavitor: Any, tmp_path: Path) -> None:
    (tmp_path / "clavitor.toml").write_text("[tls]\ncret = 'x'\n")
    result = clavitor("serve")
    assert result.code == ExitCode.CONFIG
    assert result.error() == f"tls.cret: no such key ({tmp_path}/clavitor.toml:2); did you mean tls.cert?"
    result = clavitor("config", "check", "--config", "/dev/null", env={"CLAVITOR_WROKERS": "1"})
    assert result.error() == "--config: /dev/null is not a file."


def test_a_misspelt_variable_is_exit_code_3(clavitor: Any) -> None:
    result = clavitor("config", "check", env={"CLAVITOR_DATA_DRI": "/x"})
    assert (result.code, result.out) == (ExitCode.CONFIG, "")
    assert result.error() == "CLAVITOR_DATA_DRI: no such variable; did you mean CLAVITOR_DATA_DIR?"


def test_a_missing_database_is_exit_code_4_and_makes_nothing(clavitor: Any, tmp_path: Path) -> None:
    for command in (("user", "list"), ("token", "list"), ("audit", "verify"), ("backup", "b"), ("status",)):
        result = clavitor(*command, "--data-dir", "nowhere")
        assert result.code == ExitCode.UNAVAILABLE
        assert "there is no database at" in result.error()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("c"), ExitCode.CONFIG),
        (StartError("s"), ExitCode.UNAVAILABLE),
        (PluginError("p"), ExitCode.UNAVAILABLE),
        (StorageUnavailable("u"), ExitCode.UNAVAILABLE),
        (problem(409, "user_exists", "exists"), ExitCode.FAILED),
        (BrokenPipeError(), ExitCode.FAILED),
        (ValueError("two\nlines"), ExitCode.FAILED),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(
    error: Exception, code: ExitCode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise error

    monkeypatch.setattr("clavitor_host.cli.root.root_command", broken)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert main.run([]) == code
    assert capfd.readouterr().err.count("\n") <= 1


def test_an_unexpected_error_says_how_to_see_the_trace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise RuntimeError("the cause")

    monkeypatch.setattr("clavitor_host.cli.root.root_command", broken)
    assert main.run([]) == ExitCode.FAILED
    expected = "error: RuntimeError: the cause (unexpected; run with CLAVITOR_LOG_LEVEL=debug for the trace)\n"
    assert capfd.readouterr().err == expected
    monkeypatch.setenv("CLAVITOR_LOG_LEVEL", "DEBUG")
    main.run([])
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("clavitor_host.cli.root.root_command", interrupted)
    assert main.run([]) == ExitCode.INTERRUPTED


def test_output_into_a_closed_pipe_is_no_trace(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "clavitor"
    line = f"'{program}' config reference | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("#", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(clavitor: Any, shell: str) -> None:
    result = clavitor("--show-completion", shell, env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert result.code == 0, result.err
    assert "_CLAVITOR_COMPLETE" in result.out


def test_completion_offers_commands_of_the_host(clavitor: Any) -> None:
    variables = {"_CLAVITOR_COMPLETE": "complete_bash", "COMP_WORDS": "clavitor ", "COMP_CWORD": "1"}
    offered = clavitor(env=variables).out.split()
    assert set(COMMANDS) <= set(offered)


def test_every_command_takes_the_global_flags() -> None:
    root = root_command()
    with root.make_context("clavitor", ["--help"], resilient_parsing=True) as ctx:
        for name in COMMANDS:
            command = root.get_command(ctx, name)
            for leaf in getattr(command, "commands", {name: command}).values():
                flags = {flag for parameter in leaf.params for flag in parameter.opts}
                assert {"--data-dir", "--bind", "--workers", "--config", "--json"} <= flags, leaf.name


def test_flags_stand_before_or_after_the_command(clavitor: Any) -> None:
    before = clavitor("--workers", "3", "--json", "config", "show")
    after = clavitor("config", "show", "--workers", "3", "--json")
    both = clavitor("--workers", "2", "config", "show", "--workers", "3", "--json")
    assert before.json["values"]["workers"] == after.json["values"]["workers"] == both.json["values"]["workers"] == 3


def test_every_exit_code_is_documented() -> None:
    assert set(MEANING) == set(ExitCode)


def test_the_reference_page_is_up_to_date() -> None:
    assert drift(ROOT / PAGE) == "", "run: .venv/bin/python -m clavitor_host.cli.reference > docs/reference/cli.md"


def test_drift_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    page.write_text((ROOT / PAGE).read_text().replace("List every user.", "Lists."))
    assert "+List every user." in drift(page)


def test_the_version_loads_neither_the_command_line_nor_the_server() -> None:
    modules = _modules_after("sys.argv = ['', '--version']; from clavitor_host.__main__ import main; main()")
    assert not {"typer", "rich", "pydantic", "quart", "asyncio"} & modules


def test_the_command_line_loads_what_a_command_needs_only_when_it_runs() -> None:
    modules = _modules_after("from clavitor_host.cli import root, serve; root.root_command()")
    assert not {"rich", "quart", "hypercorn", "sqlalchemy", "databases", "alembic", "httpx", "pydantic"} & modules


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--bind", "127.0.0.1:1", "--workers", "3"),
        ("--data-dir=d", "--config=c.toml"),
        ("--bind", "a:1", "--bind", "b:2"),
    ],
)
def test_the_quick_way_to_serve_reads_what_the_command_line_reads(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = plain_serve(["serve", *arguments])
    assert quick is not None
    seen: list[Any] = []

    def run_server(call: Any) -> int:
        seen.append(call)
        return 0

    monkeypatch.setattr("clavitor_host.cli.server.run_server", run_server)
    assert root_command().main(["serve", *arguments], prog_name="clavitor", standalone_mode=False) == 0
    given = {name: value for name, value in seen[0].flags.items() if value is not None}
    assert (quick.flags, quick.json) == (given, seen[0].json)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("user",),
        ("--bind", "a:1", "serve"),
        ("serve", "--help"),
        ("serve", "--json"),
        ("serve", "--prot", "1"),
        ("serve", "--bind"),
        ("serve", "--bind", "--help"),
        ("serve", "--bind="),
        ("serve", "--workers", "many"),
        ("serve", "extra"),
    ],
)
def test_anything_but_plain_serve_is_left_to_the_command_line(arguments: tuple[str, ...]) -> None:
    assert plain_serve(arguments) is None


def test_plain_serve_does_not_load_the_command_line() -> None:
    modules = _modules_after("from clavitor_host.cli import main, quick, server; quick.plain_serve(['serve'])")
    assert not {"typer", "rich", "quart", "sqlalchemy"} & modules


def _modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_no_distribution_is_asked_for_pydantic_plugins(tmp_path: Path) -> None:
    package = tmp_path / "intruder-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pydantic]\nintruder = intruder:plugin\n")
    (tmp_path / "intruder.py").write_text("import sys\nprint('intruder loaded', file=sys.stderr)\nplugin = None\n")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environ.pop("PYDANTIC_DISABLE_PLUGINS", None)
    command = [sys.executable, "-m", "clavitor_host", "config", "check", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "intruder" not in done.stderr
