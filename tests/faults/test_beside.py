"""Other programs on the database of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.workload import Wire

if TYPE_CHECKING:
    from tests.faults.conftest import Serve


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_command_beside_a_server_on_its_first_day_takes_nothing_from_it(serve: Serve, workers: int) -> None:
    """SQLite's log goes with the last program that closes the database: the server's locks must tell it is there.

    A process loses all of its POSIX locks on a file when it closes any descriptor of it, as the migration once did.
    """
    server = serve(workers=workers)  # its first start: it migrates
    wire = await Wire.open(server.address, server.token)
    for number in range(3):
        assert (await wire.request("PUT", f"/api/entries/e{number}", {"encrypted_data": "AAAA"}))[0] == 201
        listed = server.run("user", "list", "--json")
        assert listed.returncode == 0, listed.stderr
    await wire.close()
    server.kill()
    server.start()
    wire = await Wire.open(server.address, server.token)
    status, _, page = await wire.request("GET", "/api/changes")
    await wire.close()
    assert status == 200
    assert [(change["entry_id"], change["rev"]) for change in page["changes"]] == [("e0", 1), ("e1", 2), ("e2", 3)]
