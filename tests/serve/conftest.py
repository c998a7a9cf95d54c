"""Fixtures of the serving tests: real processes, real sockets, real TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.serve import certificates
from tests.serve.running import Program


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Start programs that end with the test; `ready=False` does not wait for them."""
    with ExitStack() as stack:

        def start(*, ready: bool = True, **options: Any) -> Program:
            program = stack.enter_context(Program(**options))
            return program.started() if ready else program

        yield start


@pytest.fixture(scope="module")
def shared() -> Iterator[Program]:
    """One program with short bounds for the tests of a module that leave it as it was."""
    settings = {
        "header_timeout": 0.5,
        "idle_timeout": 2.0,
        "send_timeout": 0.6,
        "drain_timeout": 0.6,
        "half_close_grace": 0.5,
        "body_timeout": 0.5,
        "drain_bytes": 300_000,
    }
    with Program(settings=settings, limit=1_000_000) as program:
        yield program.started()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, certificates.Pair]:
    folder = tmp_path_factory.mktemp("pki")
    ca = certificates.make(folder, "ca")
    return {
        "ca": ca,
        "server": certificates.make(folder, "server", ca),
        "other": certificates.make(folder, "other", ca),
        "client": certificates.make(folder, "client", ca),
        "stranger": certificates.make(folder, "stranger", certificates.make(folder, "other-ca")),
    }


@pytest.fixture
def tls_client(pki: dict[str, certificates.Pair]) -> Callable[..., ssl.SSLContext]:
    """Return a maker of client contexts that trust the test CA."""

    def make(who: str | None = None, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=pki["ca"].certificate)
        context.set_alpn_protocols(list(alpn))
        if who is not None:
            context.load_cert_chain(pki[who].certificate, pki[who].key)
        return context

    return make
