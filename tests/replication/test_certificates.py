"""Two POPs that know each other by certificates, over real TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from clavitor_commercial_replication_testing.certificates import Authority, authority

from tests.faults.workload import eventually
from tests.replication.invariants import ask, counts, drained, mirrored, read
from tests.replication.pair import BACKUP, PRIMARY, Place

if TYPE_CHECKING:
    from tests.replication.conftest import Two
    from tests.replication.pair import Pair

pytestmark = pytest.mark.timeout(180)


def _place(signer: Authority, *names: str) -> Place:
    cert, key = signer.issue(*names, "localhost")
    ours = {"cert": str(cert), "key": str(key)}
    return Place(
        tls={**ours, "client_ca": str(signer.certificate), "client_auth": "optional"},
        own={"tls_cert": str(cert), "tls_key": str(key), "tls_ca": str(signer.certificate)},
    )


async def test_the_certificate_says_which_pop_it_is(two: Two, tmp_path: Path) -> None:
    signer = authority(tmp_path)
    pair = two(primary=_place(signer, PRIMARY), backup=_place(signer, BACKUP))
    context = ssl.create_default_context(cafile=signer.certificate)
    await _write(pair, context, "one")
    await drained(pair)
    await mirrored(pair)
    async with httpx.AsyncClient(verify=context, headers=pair.primary.authorization) as client:
        answer = await client.get(f"{pair.backup.location}/api/entries/one-1")
        assert (answer.status_code, answer.json()["encrypted_data"]) == (200, "b25l")
        refused = await client.put(f"{pair.backup.location}/api/entries/one-1", json={"encrypted_data": "dHdv"})
        assert (refused.status_code, refused.headers["x-primary-location"]) == (503, pair.primary.location)
        nobody = await client.post(f"{pair.backup.location}/api/replication/apply", json={})
        assert nobody.status_code in (401, 403), "a user is not the other POP"
    cert, key = (Path(pair.primary._place.own[name]) for name in ("tls_cert", "tls_key"))
    kept = cert.read_bytes(), key.read_bytes()
    for new, old in zip(signer.issue("elsewhere-01", "localhost"), (cert, key), strict=True):
        old.write_bytes(new.read_bytes())
    pair.primary.kill()
    pair.primary.start()
    await _write(pair, context, "two")

    async def refused_by_name() -> bool:
        (peer,) = await ask(pair.primary, "SELECT last_error FROM replication_peer")
        return "elsewhere-01" in str(peer["last_error"])

    await eventually(refused_by_name)
    assert (await counts(pair.primary))["depth"] == 20
    for file, content in zip((cert, key), kept, strict=True):
        file.write_bytes(content)
    await drained(pair)  # the files are read again without a restart
    ours, theirs = await read(pair.primary), await read(pair.backup)
    assert ours.rows == theirs.rows
    assert ours.buckets == theirs.buckets
    assert len(ours.rows) == 40
    for pop in pair.pops:
        assert pop.terminate() < 20
        assert "Traceback" not in pop.log


async def _write(pair: Pair, context: ssl.SSLContext, name: str) -> None:
    async with httpx.AsyncClient(verify=context, headers=pair.primary.authorization) as client:
        for number in range(20):
            url = f"{pair.primary.location}/api/entries/{name}-{number}"
            assert (await client.put(url, json={"encrypted_data": "b25l"})).status_code == 201
