"""Callers held at a byte a second: what a thousand of them cost the server, beside Debian's endlessh."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from bench.load import Job, Result
from bench.machine import Cores, cpu_seconds, raise_file_limit, resident
from bench.report import Measured, Ratio, Section, table
from bench.rounds import START_PATIENCE, Bench, BrokenError, Server, free_port, progress
from bench.seed import fresh, seeded, temporary

HELD = 1000
CONNECTIONS = 32
REQUEST = b"GET /no-such-page HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
MARK = b"content-length: 30\r\n"
ANSWERED = REQUEST.replace(b"/no-such-page", b"/healthz")
ANSWER = b"HTTP/1.1 200"
ENDLESSH = "endlessh"
SETTLE = 1.5
"""Seconds between the last caller and the measurement."""

P99_TARGET = 1.5
CPU_TARGET = 0.07
GONE_TARGET = 1.0
PLAIN_TARGET = 1024
TLS_TARGET = 20 * 1024

Open = Callable[[int], socket.socket]


def run(bench: Bench, *, quick: bool) -> Section:
    """Measure reads beside callers that are held, then memory, CPU time and the end of a thousand of them."""
    section = Section(f"{HELD:,} callers held at 1 B/s")
    raise_file_limit()
    _beside_reads(bench, section)
    rounds, seconds = (1, 3.0) if quick else (3, 8.0)
    with temporary() as scratch:
        folder = Path(scratch)
        trusted = _certificate(folder)
        kinds = [
            Kind("plain HTTP", "holding", (), _plain),
            Kind("TLS", "holding", (f"--tls={folder}",), _over(trusted)),
            Kind("TLS, idle", "holding", (f"--tls={folder}",), _over(trusted, ANSWERED, ANSWER)),
        ]
        program = shutil.which(ENDLESSH)
        if program is None:
            section.notes.append(f"{ENDLESSH} is not installed (apt install {ENDLESSH}), so it is left out.")
        else:
            kinds.append(Kind(ENDLESSH, program, (), _connected))
        for number in range(rounds):
            for kind in kinds:
                progress(f"held: round {number + 1} of {rounds}, {kind.name}")
                kind.measure(bench.cores, folder, seconds)
        progress("")
    _report(section, kinds)
    return section


# --- reads beside them


def _beside_reads(bench: Bench, section: Section) -> None:
    """The same server answers reads, in turn with nobody held and with a thousand."""
    vault = seeded(1000)
    server = bench.server("holding", f"--data={vault.folder}")

    def reads(number: int) -> Result:
        pace = bench.pace
        job = Job("get", server.port, CONNECTIONS, pace.warm, pace.seconds, number, vault.token, 1000)
        return bench.load.perform(job)

    def beside(number: int) -> Result:
        with callers(_plain, server.port):
            return reads(number)

    def alone(number: int) -> Result:
        sleep(0.3)  # those before have hung up
        return reads(number)

    none = bench.add("GET an entry, nobody held", alone)
    many = bench.add(f"GET an entry, {HELD:,} held", beside)
    section.measured = bench.run("held")
    ratio = median(a.p99 / b.p99 for a, b in zip(many.rounds, none.rounds, strict=True))
    names = [f"p99, {name} ({_p99(measured)})" for name, measured in ((f"{HELD:,} held", many), ("none", none))]
    section.ratios.append(Ratio(names[0], names[1], ratio, P99_TARGET, at_least=False))
    section.compare(many, none)


def _p99(measured: Measured) -> str:
    return f"{median(result.p99 for result in measured.rounds) * 1e3:.2f} ms"


# --- what they cost


@dataclass(slots=True)
class Kind:
    """A server that holds callers, and what was measured of it, round by round.

    memory: bytes of the process for each caller. cpu: share of a core. gone: seconds from SIGTERM until the last
    connection had ended.
    """

    name: str
    program: str
    options: Sequence[str]
    open: Open
    memory: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)

    def measure(self, cores: Cores, folder: Path, seconds: float) -> None:
        """Start one, hold a thousand callers with it, and end it."""
        with ExitStack() as stack:
            if self.program == "holding":
                process, port = stack.enter_context(_ours(cores, folder, self.options))
            else:
                process, port = stack.enter_context(_theirs(self.program, cores))
            with callers(self.open, port, 200):  # so that what every server grows at first does not count
                sleep(SETTLE)
            sleep(SETTLE)
            before = resident(process.pid)
            held = stack.enter_context(callers(self.open, port))
            sleep(SETTLE)
            self.memory.append((resident(process.pid) - before) / HELD)
            used = cpu_seconds(process.pid)
            sleep(seconds)
            self.cpu.append((cpu_seconds(process.pid) - used) / seconds)
            began = monotonic()
            process.send_signal(signal.SIGTERM)
            for sock in held:
                _read_to_the_end(sock)
            self.gone.append(monotonic() - began)

    def cells(self) -> list[str]:
        """Return the cells of its line."""
        figures = f"{median(self.memory):,.0f}", f"{median(self.cpu) * 100:.1f} %", f"{median(self.gone) * 1e3:.0f}"
        return [self.name, *figures]


def _report(section: Section, kinds: list[Kind]) -> None:
    rows = [["", "bytes each", "of a core", "gone after ms"], *(kind.cells() for kind in kinds)]
    section.notes += ["", *table(rows, "<>>>")]
    plain, tls, idle, *other = kinds
    for kind, bound in ((plain, PLAIN_TARGET), (tls, TLS_TARGET)):
        _at_most(section, f"{kind.name}: bytes each", median(kind.memory), bound, f"{bound:,} bytes")
        _at_most(section, f"{kind.name}: share of a core", median(kind.cpu), CPU_TARGET, "7 % of a core")
        _at_most(section, f"{kind.name}: seconds until all are gone", median(kind.gone), GONE_TARGET, "1 s")
    names = [f"{kind.name}: bytes each ({median(kind.memory):.4g})" for kind in (tls, idle)]
    section.ratios.append(Ratio(names[0], names[1], median(tls.memory) / median(idle.memory)))
    for endless in other:
        for what, ours, theirs in (
            ("bytes each", plain.memory, endless.memory),
            ("share of a core", plain.cpu, endless.cpu),
        ):
            value, floor = median(ours), median(theirs)
            names = [f"{who.name}: {what} ({number:.4g})" for who, number in ((plain, value), (endless, floor))]
            section.ratios.append(Ratio(names[0], names[1], value / floor if floor else float("inf")))


def _at_most(section: Section, name: str, value: float, bound: float, text: str) -> None:
    """Add a figure as its ratio to the most that it may be."""
    section.ratios.append(Ratio(f"{name} ({value:.4g})", text, value / bound, 1.0, at_least=False))


# --- servers


@contextmanager
def _ours(cores: Cores, folder: Path, options: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    vault = fresh(data)
    if not options:
        with Server("holding", cores, f"--data={vault.folder}") as server:
            yield server.process, server.port
        return
    server = Server("holding", cores, f"--data={vault.folder}", *options)
    with _until_it_listens(server.process, server.port):
        yield server.process, server.port


@contextmanager
def _theirs(program: str, cores: Cores) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    pinned = ["taskset", "-c", ",".join(map(str, cores.server))] if cores.server else []
    command = [*pinned, program, "-p", str(port), "-d", "1000", "-l", "3", "-m", "4096"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _until_it_listens(process, port):
        yield process, port


@contextmanager
def _until_it_listens(process: subprocess.Popen[bytes], port: int) -> Iterator[None]:
    try:
        deadline = monotonic() + START_PATIENCE
        while not _listens(port):
            if process.poll() is not None or monotonic() > deadline:
                raise BrokenError("a server that holds callers did not start")
            sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


# --- callers


@contextmanager
def callers(open: Open, port: int, count: int = HELD) -> Iterator[list[socket.socket]]:
    """Have `count` callers held; they hang up in the end. Raises `BrokenError` for one that is not."""
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            held.append(open(port))
        yield held
    finally:
        for sock in held:
            sock.close()


def _plain(port: int) -> socket.socket:
    return _asked(socket.create_connection(("127.0.0.1", port), timeout=15))


def _over(context: ssl.SSLContext, request: bytes = REQUEST, mark: bytes = MARK) -> Open:
    def open(port: int) -> socket.socket:
        return _asked(context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=15)), request, mark)

    return open


def _asked(sock: socket.socket, request: bytes = REQUEST, mark: bytes = MARK) -> socket.socket:
    sock.sendall(request)
    answer = sock.recv(4096)
    if mark not in answer:
        raise BrokenError(f"a caller was not held: {answer[:300]!r}")
    return sock


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=15)


def _read_to_the_end(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass


def _certificate(folder: Path) -> ssl.SSLContext:
    """Make a certificate for the server; return a client context that does not ask for more."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem"), "-subj", "/CN=localhost"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
