"""`clavitor replication` as processes beside two running servers: what is printed, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.replication.pair import Pair, Pop


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path) as made:
        yield made.start()


def run(pop: Pop, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    done = pop.run("replication", *arguments, stdin=stdin)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def told(pop: Pop, *arguments: str, code: int = 0) -> Any:
    done = run(pop, *arguments, "--json")
    assert done.returncode == code, (arguments, done)
    return json.loads(done.stdout)


def error(pop: Pop, *arguments: str, code: int = 1) -> str:
    """Return the one line that a command ends with when it cannot."""
    done = run(pop, *arguments)
    assert done.returncode == code, (arguments, done)
    lines = done.stderr.splitlines()
    assert done.stdout == "" and len(lines) >= 1 and lines[-1].startswith("error: "), done
    return lines[-1].removeprefix("error: ")


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.1)


def put(pop: Pop, entry_id: str, text: str = "eA==") -> httpx.Response:
    return httpx.put(
        f"{pop.url}/api/entries/{entry_id}", json={"encrypted_data": text}, headers=pop.authorization, timeout=30
    )


def role(pop: Pop) -> Any:
    done = run(pop, "status", "--json")
    return json.loads(done.stdout)["role"]


@pytest.mark.timeout(400)
def test_a_whole_failover_by_command(pair: Pair) -> None:
    old, new = pair.primary, pair.backup
    for number in range(3):
        assert put(old, f"entry-{number}").status_code == 201
    until(lambda: run(old, "status").returncode == 0)
    until(lambda: run(new, "status").returncode == 0)
    shown = run(new, "status").stdout
    assert "role:" in shown and "backup: read-only" in shown and "All is well." in shown
    assert "yes, all 256 hashes" in shown
    assert run(old, "verify").stdout == "Both POPs are equal.\n"
    assert told(old, "verify")["equal"] is True
    assert "compare on the primary" in error(new, "verify")

    assert "answers right now: stop it first" in error(new, "promote", "--yes")
    preview = told(new, "promote", "--dry-run", code=5)
    assert (preview["promoted"], preview["refused"]) == (False, True)
    assert (preview["new_epoch"], preview["missing"]) == (2, 0)
    dry = run(new, "promote", "--dry-run")
    assert dry.returncode == 5 and dry.stdout.endswith("\nIt would be refused without --force.\n")
    forced = run(new, "promote", "--dry-run", "--force")
    assert forced.returncode == 0 and "refused without" not in forced.stdout
    assert told(new, "promote", "--dry-run", "--force")["refused"] is False
    new.terminate()
    assert put(old, "only-here").status_code == 201
    assert put(old, "entry-0", "b2xk").status_code == 200
    old.kill()
    new.start()
    unasked = run(new, "promote", "--force")
    assert unasked.returncode == 1 and unasked.stderr == "error: no terminal to ask at: confirm with --yes\n"
    done = run(new, "promote", "--force", "--yes")
    assert done.returncode == 0 and "This POP is the primary now, of epoch 2." in done.stdout
    assert "What it has written after that, nobody here can know." in done.stdout
    until(lambda: put(new, "entry-0", "bmV3").status_code in (200, 201))

    old.start()
    until(lambda: role(old) == "fenced")
    assert put(old, "refused").status_code == 503
    status = run(old, "status")
    assert status.returncode == 5 and "takes no writes because the other POP has become the primary" in status.stdout
    rows = told(old, "unreplicated")["entries"]
    assert {row["entry_id"] for row in rows} == {"only-here", "entry-0"}
    assert {row["encrypted_data"] for row in told(old, "unreplicated", "--data")["entries"]} == {"eA==", "b2xk"}
    assert run(old, "unreplicated").stdout.startswith("ENTRY\tOPERATION\tREV\tWRITTEN\tBYTES\tREFUSED\n")
    assert "written here are not on the other POP" in error(old, "reseed", "--yes")
    assert "name entries, or give --all" in error(old, "replay")
    assert "name entries, or give --all" in error(old, "discard", "entry-0", "--all")
    assert "no write of the entry nothing waits here" in error(old, "replay", "nothing")
    replayed = run(old, "replay", "--all")
    assert replayed.returncode == 5
    assert replayed.stdout.startswith("Written on the primary: 1. There already: 0.\nconflict: entry-0 was written")
    assert "no terminal to ask at: confirm with --yes" in error(old, "discard", "entry-0")
    assert "not the primary" in error(old, "requeue")
    assert run(old, "discard", "entry-0", "--yes").stdout == "Discarded: 1.\n"
    assert told(old, "unreplicated") == {"entries": []}
    filled = run(old, "reseed", "--yes")
    assert filled.returncode == 0 and "Taken from the primary: 4, deleted ones too. Removed here: 0." in filled.stdout
    assert "4 entries there, 4 here" in filled.stderr
    new.terminate()
    new.start()  # so that it does not wait before it tries to send again
    until(lambda: run(new, "status").returncode == 0)
    until(lambda: run(old, "status").returncode == 0)
    assert run(new, "verify").stdout == "Both POPs are equal.\n"
    assert role(old) == "backup" and role(new) == "primary"


@pytest.mark.timeout(400)
def test_a_difference_is_shown_and_repaired_by_command(pair: Pair) -> None:
    for number in range(4):
        assert put(pair.primary, f"entry-{number}").status_code == 201
    until(lambda: run(pair.primary, "status").returncode == 0)
    script = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "db.execute(\"DELETE FROM replication_versions WHERE entry_id = 'entry-2'\"); "
        "db.execute('UPDATE replication_state SET buckets = zeroblob(8192)'); db.commit()"
    )
    subprocess.run([sys.executable, "-c", script, str(pair.backup.file)], check=True)
    until(lambda: run(pair.primary, "status").returncode == 5)
    found = told(pair.primary, "verify", code=5)
    assert [(row["entry_id"], row["kind"], row["backup"]) for row in found["differences"]] == [
        ("entry-2", "missing", None)
    ]
    shown = run(pair.primary, "verify")
    assert shown.returncode == 5 and "the backup does not have it" in shown.stdout
    assert "--discard says what --repair may do" in error(pair.primary, "verify", "--discard")
    repaired = run(pair.primary, "verify", "--repair")
    assert "Sent again: 1. Written anew: 0." in repaired.stdout
    assert "Every entry is the same, but" in repaired.stdout  # the backup's hashes were wiped out, too
    assert run(pair.primary, "verify").returncode == 5


def test_it_says_in_one_line_what_is_wrong_with_the_other_pop_or_the_configuration(pair: Pair) -> None:
    until(lambda: run(pair.primary, "status").returncode == 0)
    pair.backup.kill()
    assert "cannot be reached" in error(pair.primary, "verify")
    assert "this POP is the primary" in error(pair.primary, "reseed", "--yes")
    assert "this POP is the primary" in error(pair.primary, "replay", "--all")
    assert "this POP is the primary" in error(pair.primary, "discard", "--all", "--yes")
    assert "is the primary already" in error(pair.primary, "promote", "--yes")
    assert told(pair.primary, "requeue") == {"requeued": 0}
    assert "the backup has not refused the entry nothing" in error(pair.primary, "requeue", "nothing")
    assert told(pair.primary, "tokens") == {"tokens": []}
    assert told(pair.primary, "tokens", "--all", "--yes") == {"forgotten": 0}
    assert "no mirrored token has the id nothing" in error(pair.primary, "tokens", "--forget", "nothing")
    for url in ("http://zurich.example.com", "https://[::1"):
        assert "nobody is asked at the URL" in error(pair.backup, "reseed", "--from", url, "--yes")
    settings = pair.primary.folder / "clavitor.toml"
    settings.write_text(settings.read_text("utf-8").replace("stalled_after = 5.0", "stalled_after = 3600.0"), "utf-8")
    until(lambda: "Held up just now: it counts as a problem after 1 hour." in run(pair.primary, "status").stdout)
    held = run(pair.primary, "status")
    assert held.returncode == 0 and "last error:" in held.stdout and "All is well." not in held.stdout
    pair.primary.terminate()
    stopped = run(pair.primary, "status")
    assert stopped.returncode == 5 and "No server runs on this database" in stopped.stdout
    assert told(pair.primary, "status", code=5)["problems"][0].startswith("No server runs")
    settings.write_text("", "utf-8")
    assert "replication is off: set a role" in error(pair.primary, "verify")
    off = run(pair.primary, "status")
    assert (off.returncode, off.stdout) == (5, "Replication is off: no role is set.\n")
    assert told(pair.primary, "status", code=5)["on"] is False
