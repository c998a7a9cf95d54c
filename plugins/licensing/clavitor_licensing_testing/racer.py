"""The processes of a race. Each starts a host on the database and, at a word, makes users as fast as it can.

    python -m clavitor_licensing_testing.racer FOLDER PROCESSES ATTEMPTS

They are forked from one that has loaded the program, so that they start quickly; what they share is the database. It
prints what came of each attempt, as JSON: null, or status and body of the refusal.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from clavitor_host.app import create_host
from clavitor_host.errors import Problem
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.testing import settings

BUNDLE = frozen_set()


async def race(folder: Path, name: str, attempts: int, ready: int, go: int) -> list[Any]:
    app = create_host(settings(folder, BUNDLE, os.environ), BUNDLE)
    await app.start(offline=True)
    outcomes: list[Any] = []
    try:
        os.write(ready, b".")
        os.read(go, 1)  # until the other end is closed
        for attempt in range(attempts):
            try:
                await create_user(app.host, name=f"{name}-{attempt}", role=Role.VIEWER, requested_by=SYSTEM)
                outcomes.append(None)
            except Problem as refusal:
                outcomes.append([refusal.status, refusal.body()])
    finally:
        await app.stop()
    return outcomes


def run(folder: Path, processes: int, attempts: int) -> list[Any]:
    ready, is_ready = os.pipe()
    go, start = os.pipe()
    pids = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            os.close(start)
            outcomes = asyncio.run(race(folder, f"racer-{number}", attempts, is_ready, go))
            (folder / f"racer-{number}.json").write_text(json.dumps(outcomes))
            os._exit(0)
        pids.append(pid)
    os.close(is_ready)
    for _ in pids:
        assert os.read(ready, 1) == b".", "one of them did not start"
    os.close(start)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    files = (folder / f"racer-{number}.json" for number in range(processes))
    return [outcome for file in files for outcome in json.loads(file.read_text())]


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
