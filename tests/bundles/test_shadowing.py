"""A wheel takes nobody's place: neither another wheel's, nor the host's, nor Python's own modules."""

from __future__ import annotations

import pytest

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.shadowing import check_modules

HOST, PLUGIN, OTHER = "clavitor_host-1.0.0-py3-none-any.whl", "acme-1.0-py3-none-any.whl", "anyio-4.0-py3-none-any.whl"
SO = ".cpython-311-x86_64-linux-gnu.so"

SOUND = {
    "clavitor_host/__init__.py": HOST,
    "clavitor_host/__main__.py": HOST,
    "clavitor_host/cli/__init__.py": HOST,
    "clavitor_host-1.0.0.dist-info/METADATA": HOST,
    "anyio/__init__.py": OTHER,
    "anyio/_core.py": OTHER,
    "anyio/data.txt": OTHER,
    "anyio/fast.py": OTHER,
    f"anyio/fast{SO}": OTHER,
    "anyio-4.0.dist-info/METADATA": OTHER,
    "space/one.py": OTHER,
    "single.py": OTHER,
    "LICENSE": OTHER,
    "acme/__init__.py": PLUGIN,
    "acme/json.py": PLUGIN,
    "acme/types.abi3.so": PLUGIN,
    "space/two.py": PLUGIN,
}


def test_wheels_that_keep_to_themselves_are_taken() -> None:
    check_modules(SOUND, HOST)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("clavitor_host/__main__/__init__.py", f"is in clavitor_host, which is of {HOST}"),
        (f"clavitor_host/__main__{SO}", f"is in clavitor_host, which is of {HOST}"),
        ("clavitor_host/notes.txt", f"is in clavitor_host, which is of {HOST}"),
        (f"clavitor_host{SO}", f"is in clavitor_host, which is of {HOST}"),
        ("clavitor_host.py", f"is in clavitor_host, which is of {HOST}"),
        ("anyio/_core.abi3.so", f"is in anyio, which is of {OTHER}"),
        ("anyio/more.py", f"is in anyio, which is of {OTHER}"),
        ("anyio.so", f"is in anyio, which is of {OTHER}"),
        ("single/__init__.py", f"is in single, which is of {OTHER}"),
        ("anyio-4.0.dist-info/entry_points.txt", f"is in anyio-4.0.dist-info, which is of {OTHER}"),
        ("email/more.py", "is in the place of email, a module of Python itself"),
        (f"csv{SO}", "is in the place of csv, a module of Python itself"),
        ("token.pyc", "is in the place of token, a module of Python itself"),
    ],
)
def test_a_member_in_anothers_place_is_refused_in_a_line_that_names_both(name: str, says: str) -> None:
    for owners in (SOUND | {name: PLUGIN}, {name: PLUGIN} | SOUND):
        with pytest.raises(BundleError) as caught:
            check_modules(owners, HOST)
        line = str(caught.value)
        assert line == f"{name} of {PLUGIN} {says}" or (OTHER in line and PLUGIN in line and "which is of" in line)


@pytest.mark.parametrize(
    ("name", "other", "wheel"),
    [
        ("acme/a.py", "acme/a/__init__.py", PLUGIN),
        ("acme/a.py", "acme/a.pyc", PLUGIN),
        ("acme/a/__init__.py", f"acme/a{SO}", PLUGIN),
        ("acme/a.abi3.so", f"acme/a{SO}", PLUGIN),
        ("acme/__init__.py", "acme.py", PLUGIN),
        ("clavitor_host/__main__.py", f"clavitor_host/__main__{SO}", HOST),
    ],
)
def test_two_members_that_are_one_module_are_refused(name: str, other: str, wheel: str) -> None:
    for owners in (SOUND | {name: wheel, other: wheel}, {other: wheel, name: wheel} | SOUND):
        with pytest.raises(BundleError, match=f" of {wheel} are one module$") as caught:
            check_modules(owners, HOST)
        assert name in str(caught.value)
        assert other in str(caught.value)
