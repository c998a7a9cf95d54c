"""How replication is told to people."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from clavitor_commercial_replication.wording import progress_bar, seconds
from clavitor_commercial_replication.words import are, as_role, entries, tokens, writes

PROGRAM = """
from clavitor_commercial_replication.wording import progress_bar
with progress_bar("Entries") as progress:
    progress(40, 100)
    progress(100, 100)
"""


def test_progress_is_drawn_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", PROGRAM], check=True, stderr=theirs, env={**os.environ, "TERM": "xterm"})
        drawn = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Entries" in drawn and "100/100" in drawn


def test_progress_is_silent_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    with progress_bar("Entries", quiet=True) as progress:
        progress(1, 2)


def test_times_have_their_units() -> None:
    assert [seconds(value) for value in (0.0, 1.25, 59.9, 60, 3_661, 90_000)] == [
        "0.0 seconds",
        "1.2 seconds",
        "59.9 seconds",
        "1 minute",
        "1 hour 1 minute",
        "1 day 1 hour",
    ]


def test_one_is_told_as_one_and_many_as_many() -> None:
    counted = [(words(1), words(2_000)) for words in (entries, writes, tokens, are)]
    assert counted == [
        ("1 entry", "2,000 entries"),
        ("1 write", "2,000 writes"),
        ("1 token", "2,000 tokens"),
        ("is", "are"),
    ]


def test_a_role_is_told_in_a_sentence() -> None:
    assert [as_role("primary"), as_role("backup"), as_role("fenced")] == ["the primary", "the backup", "fenced"]
