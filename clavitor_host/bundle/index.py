"""Package indexes, through pip and with the user's own settings of it: resolving, and fetching what a lock names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clavitor_host.bundle import wheels
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.lock import LockedDistribution
from clavitor_host.bundle.manifest import PYTHON

Progress = Callable[[int, int], None]

GLIBC = 28
"""The newest `manylinux_2_<n>` that a bundle runs on."""

_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OFFLINE = re.compile(
    r"NewConnectionError|NameResolutionError|Temporary failure in name resolution|Connection refused|timed out|"
    r"Network is unreachable|Failed to establish|ProxyError|Max retries exceeded|RemoteDisconnected|"
    r"Connection reset|SSLError|HTTP error 5\d\d|50\d (Server|Client) Error"
)
_UNREACHABLE = "the package index cannot be reached"
_UNFOUND = re.compile(
    r"Could not find a version that satisfies the requirement (?P<what>\S+)(?: \(from (?P<who>(?!versions:)[^)]*)\))?"
    r"[^\n]*?\(from versions: (?P<versions>[^)]*)\)"
)
_MISMATCH = re.compile(r"DO NOT MATCH THE HASHES.*?\n\s+(?P<what>\S+)[^\n]* from ", re.DOTALL)


def resolve(requirements: Sequence[str], constraints: Sequence[str], folder: Path, progress: Progress) -> list[Path]:
    """Fetch the wheels of everything that is required into `folder` and return them.

    requirements, constraints: lines of the files that pip reads. Raises BundleError: one line that says what could
    not be had, and who required it.
    """
    with tempfile.TemporaryDirectory(prefix="clavitor-lock-") as place:
        wanted, held = Path(place, "requirements.txt"), Path(place, "constraints.txt")
        wanted.write_text("".join(f"{line}\n" for line in requirements), "utf-8")
        held.write_text("".join(f"{line}\n" for line in constraints), "utf-8")
        _download(folder, ["-r", str(wanted), "-c", str(held)], progress, len(constraints))
    return sorted(folder.glob("*.whl"))


def fetch(missing: Sequence[LockedDistribution], progress: Progress) -> dict[str, bytes]:
    """Fetch exactly the wheels that a lock names, into the cache, and return them by name. Raises BundleError."""
    if not missing:
        return {}
    with tempfile.TemporaryDirectory(prefix="clavitor-fetch-") as place:
        wanted, folder = Path(place, "requirements.txt"), Path(place, "wheels")
        wanted.write_text(
            "".join(f"{item.name}=={item.version} --hash=sha256:{item.sha256}\n" for item in missing), "utf-8"
        )
        _download(folder, ["--no-deps", "--require-hashes", "-r", str(wanted)], progress, len(missing))
        found = {}
        for item in missing:
            file = folder / item.wheel
            if not file.is_file():
                raise BundleError(f"{item.wheel}: the package index has it under another name; lock again")
            data = file.read_bytes()
            if wheels.keep(item.wheel, data) != item.sha256:
                raise BundleError(f"{item.wheel}: its sha256 is not the one in the lock")
            found[item.name] = data
        return found


def _download(folder: Path, arguments: list[str], progress: Progress, total: int) -> None:
    folder.mkdir(exist_ok=True)
    command = [*_PIP, "download", "--no-input", "--only-binary=:all:", "--dest", str(folder), *_target(), *arguments]
    lines: list[str] = []
    done = 0
    with subprocess.Popen(  # noqa: S603 - pip of this environment
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environ(), text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Collecting ") and done < total:
                done += 1
                progress(done, total)
    if process.returncode:
        raise BundleError(_explain("".join(lines)))


_PIP = [sys.executable, "-I", "-m", "pip"]


def _environ() -> dict[str, str]:
    return {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}


def _target() -> Iterable[str]:
    platforms = []
    for minor in range(GLIBC, 4, -1):
        platforms.append(f"manylinux_2_{minor}_x86_64")
        if minor in _OLD_NAMES:
            platforms.append(f"{_OLD_NAMES[minor]}_x86_64")
    yield from (word for platform in platforms for word in ("--platform", platform))
    yield from ("--python-version", PYTHON, "--implementation", "cp")
    yield from ("--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none")


def _explain(output: str) -> str:
    """Return pip's trouble in one line."""
    mismatch = _MISMATCH.search(output)
    if mismatch:
        return f"{mismatch['what']}: the package index gives a file whose sha256 is not the one in the lock"
    unfound = _UNFOUND.search(output)
    if _OFFLINE.search(output):
        return _UNREACHABLE + (f" (looking for {unfound['what']})" if unfound else "")
    if "conflicting dependencies" in output:
        caused = re.search(r"The conflict is caused by:\n(?P<lines>(?:[ \t]+\S[^\n]*\n)+)", output)
        lines = caused["lines"].splitlines() if caused else []
        return "versions conflict: " + "; ".join(line.strip() for line in lines)
    if unfound:
        return _nothing_fits(unfound["what"], unfound["who"] or "", unfound["versions"])
    errors = [line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    return f"pip failed: {errors[0] if errors else ' '.join(output.split())[-300:]}"


def _nothing_fits(what: str, who: str, versions: str) -> str:
    who = who.partition("->")[0].strip()
    by = f" (required by {who})" if who and not who.startswith("-r ") else ""
    name = re.split(r"[\[<>=!~;( ]", what, maxsplit=1)[0]
    if versions != "none":
        return f"the package index has no wheel of {what}{by} for CPython 3.11 on linux x86_64; it has {versions}"
    is_there, output = _sources_of(name)
    if _OFFLINE.search(output):  # pip says so to whoever asks for every detail only
        return f"{_UNREACHABLE} (looking for {what})"
    if is_there:
        return f"{name}{by} comes as a source distribution only: a bundle takes wheels for CPython 3.11 on linux x86_64"
    return f"the package index has nothing named {name}{by} for CPython 3.11 on linux x86_64"


def _sources_of(name: str) -> tuple[bool, str]:
    """Tell whether the index has a source distribution, without fetching or running it, and what pip says."""
    done = subprocess.run(  # noqa: S603 - pip of this environment
        [*_PIP, "index", "versions", "-vv", "--no-binary=:all:", name],
        env=_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode == 0, done.stdout
