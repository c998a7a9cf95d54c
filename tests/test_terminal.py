"""What commands write and ask, in the host and in plugins."""

from __future__ import annotations

import io
import json
import sys

import pytest

from clavitor_host.api import ClavitorError, terminal


class Screen(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


def test_facts_are_aligned_and_an_empty_name_goes_on_with_the_line_above(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.facts([("role", "primary"), ("", "and well"), ("enlisted", True), ("reason", None)])
    assert capsys.readouterr().out == "role:     primary\n          and well\nenlisted: yes\nreason:   \n"
    terminal.facts([])
    assert capsys.readouterr().out == ""


def test_a_table_has_tabs_in_a_pipe_and_is_aligned_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, rows = ("ID", "REV"), [("a", 1), ("longer", None)]
    terminal.table(columns, rows)
    assert capsys.readouterr().out == "ID\tREV\na\t1\nlonger\t\n"
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    terminal.table(columns, rows)
    assert screen.getvalue() == "ID      REV\na       1\nlonger\n"


def test_no_value_writes_over_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.facts([("id", "a\x1b[2J")])
    terminal.table(("ID",), [("a\x1b[2J",)])
    terminal.note("gone: a\x1b[2J\nb")
    written = capsys.readouterr()
    assert written.out == "id: a\\x1b[2J\nID\na\\x1b[2J\n"
    assert written.err == "gone: a\\x1b[2J\\nb\n"


def test_json_is_one_document_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.write_json({"text": "a\n\u00e4", "none": None})
    written = capsys.readouterr().out
    assert json.loads(written) == {"text": "a\n\u00e4", "none": None}
    assert written.count("\n") == 1


def test_only_a_yes_is_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.confirm("Go on?", yes=True)
    monkeypatch.setattr(sys, "stderr", asked := Screen())
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(terminal.NobodyThere, match="confirm with --yes"):
        terminal.confirm("Go on?", yes=False)
    monkeypatch.setattr(sys, "stdin", Screen(" Yes \nno\n"))
    terminal.confirm("Go on?", yes=False)
    assert asked.getvalue() == "Go on? [y/N] "
    for _ in ("no", "the end of the input"):
        with pytest.raises(ClavitorError, match="nothing was changed"):
            terminal.confirm("Go on?", yes=False)


def test_a_moment_is_utc_to_the_second() -> None:
    assert terminal.moment(None) == ""
    assert terminal.moment(1_743_556_800_000_000) == "2025-04-02T01:20:00Z"
