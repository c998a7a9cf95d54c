"""What a program does with the network, seen from outside: its system calls, by strace.

Every socket needs one of few calls to reach anything, so these are judged, whichever library makes them. Reads and
writes on a connected socket need no judgement of their own: strace names both ends of a socket wherever it is used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PATIENCE = 30.0
"""Seconds that strace may take to write down the end of what it traces."""

_LINE = re.compile(r"(?P<pid>\d+) +(?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_UNFINISHED = re.compile(r" *<unfinished \.\.\.>$")
_RESULT = re.compile(r"\) += +(?P<result>-?\d+|\?|0x[0-9a-f]+)(?P<more>[^=]*)$")
_TEXT = re.compile(r'"(?:\\.|[^"\\])*"(?:\.\.\.)?')
_SOCKET = re.compile(r"<(?P<kind>TCP|TCPv6|UDP|UDPv6|UDPLITE|RAW|RAWv6|NETLINK|PACKET):\[(?P<ends>.*?)\]>")
_IP = re.compile(r"sin6?_port=htons\((?P<port>\d+)\).*?\"(?P<host>[0-9a-f.:]+)\"")
_UNIX = re.compile(r'sun_path=(?P<path>@?"[^"]*")')
_ADDRESS = re.compile(r"\{sa_family=(?P<family>AF_\w+)(?P<rest>[^}]*)\}")

TRACED = "trace=%network,execve,io_uring_setup"
NO_RING = "inject=io_uring_setup:error=ENOSYS"
"""What goes through an io_uring passes a tracer unseen, so there is none. libuv does without."""


class Call(NamedTuple):
    """One finished system call. `result`: as strace writes it; empty for a call that its process did not survive."""

    process: int
    name: str
    arguments: str
    result: str


def missing() -> str | None:
    """Say why nothing can be traced here, or None."""
    if shutil.which("strace") is None:
        return "tracing needs strace: install strace"
    done = subprocess.run(["strace", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()}"


def prefix(file: Path) -> tuple[str, ...]:
    """Return what to run a program under so that its trace goes to `file`. The program keeps the process id."""
    return ("strace", "-D", "-f", "-yy", "-s", "256", "--seccomp-bpf", "-o", str(file), "-e", TRACED, "-e", NO_RING)


def read(file: Path, process: int) -> list[Call]:
    """Return the calls of a trace once strace has written down the end of `process`, the first of them."""
    end = re.compile(rf"^{process} +\+\+\+ (?:exited|killed)", re.M)
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or not end.search(file.read_text("utf-8", "replace")):
        assert time.monotonic() < deadline, f"strace did not see the end of {process}"
        time.sleep(0.02)
    return list(parse(file.read_text("utf-8", "replace").splitlines()))


def parse(lines: Iterable[str]) -> Iterator[Call]:
    """Put together calls that were interrupted by others'. Raises ValueError for a line that is none of strace's."""
    begun: dict[int, str] = {}
    for line in lines:
        split = _LINE.fullmatch(line)
        if split is None:
            raise ValueError(f"not a line of strace: {line}")
        process, rest = int(split["pid"]), split["rest"]
        if rest.startswith(("---", "+++")):
            if process in begun and rest.startswith("+++"):
                yield _call(process, begun.pop(process))
        elif _UNFINISHED.search(rest):
            begun[process] = _UNFINISHED.sub("", rest)
        elif resumed := _RESUMED.fullmatch(rest):
            yield _call(process, begun.pop(process) + resumed["rest"])
        else:
            yield _call(process, rest)
    for process, rest in begun.items():
        yield _call(process, rest)


def _call(process: int, text: str) -> Call:
    found = _CALL.fullmatch(text)
    if found is None:
        raise ValueError(f"not a call: {text}")
    result = _RESULT.search(found["rest"])
    if result is None:
        return Call(process, found["name"], found["rest"], "")
    return Call(process, found["name"], found["rest"][: result.start()], result["result"] + result["more"].rstrip())


def addresses(call: Call) -> list[str]:
    """Return every address that a call carries: `127.0.0.1:80`, `unix:/path`, else its family."""
    found = []
    for address in _ADDRESS.finditer(call.arguments):
        family, rest = address["family"], address["rest"]
        if ip := _IP.search(rest):
            found.append(f"{ip['host']}:{ip['port']}")
        elif path := _UNIX.search(rest):
            found.append("unix:" + path["path"].replace('"', ""))
        else:
            found.append(family)
    return found


def strangers(
    calls: Iterable[Call], *, listener: str, peers: Collection[str] = (), programs: Collection[str]
) -> list[str]:
    """Return what a program did with the network beyond serving `listener` and talking to `peers`, a line each.

    listener: `host:port` as bound; a bind to port 0 of the host is how a free port is asked for. peers: as
    `addresses` writes them. programs: files it may execute. A UNIX socket is judged as any other: a name service
    cache, a system log or a service manager is somebody to talk to, so it must be among the peers.
    """
    found = []
    for call in calls:
        trouble = _trouble(call, listener, peers, programs)
        if trouble:
            found.append(f"{trouble}: {call.name}({call.arguments}) = {call.result}")
    return found


def _trouble(call: Call, listener: str, peers: Collection[str], programs: Collection[str]) -> str:
    host = listener.rpartition(":")[0]
    plain = _TEXT.sub('""', call.arguments)
    if call.name == "execve":
        program = call.arguments.partition('"')[2].partition('"')[0]
        return "" if program in programs or call.result.startswith("-1") else f"starts {program}"
    if call.name == "io_uring_setup":
        return "" if call.result.startswith("-1") else "makes a ring whose work is not seen"
    if call.name == "socket":
        ordinary = plain.startswith(("AF_INET,", "AF_INET6,", "AF_UNIX,")) and "SOCK_STREAM" in plain
        return "" if ordinary else "makes an unusual socket"
    if call.name == "socketpair":
        return ""
    if call.name == "bind":
        return "" if addresses(call) in ([listener], [f"{host}:0"]) else "binds"
    if call.name == "connect":
        return "" if addresses(call) and set(addresses(call)) <= set(peers) else "connects"
    if call.name.startswith("send") and set(addresses(call)) - set(peers):
        return "sends"
    for socket in _SOCKET.finditer(plain):
        here, _, there = socket["ends"].partition("->")
        if not socket["kind"].startswith("TCP") or (there and here != listener and there not in peers):
            return "uses a socket that is nobody's"
    return ""


def contacted(calls: Iterable[Call]) -> set[str]:
    """Return every address that was connected to or sent to, whether it answered or not."""
    return {name for call in calls if call.name == "connect" or call.name[:4] == "send" for name in addresses(call)}
