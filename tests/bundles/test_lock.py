"""Locks: resolving against a package index that lies in a folder, what is stale, and every way it cannot be done."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clavitor_host.bundle import index, lock, manifest, requirements, resolve, tools, wheels
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.lock import LockedDistribution
from clavitor_host.bundle.manifest import Manifest
from clavitor_host.bundle.resolve import Local
from tests.bundles.making import SHELF, plugin_folder, shelve_tested, stock, wheel, write


def nothing(done: int, total: int) -> None:
    """Take no interest in progress."""


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of every package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {**SHELF, "PIP_FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def resolved(shelf: Path, *wanted: str, constraints: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the wheels that pip takes."""
    return [file.name for file in index.resolve(wanted, constraints, shelf.parent / "found", nothing)]


def trouble(shelf: Path, *wanted: str, constraints: tuple[str, ...] = ()) -> str:
    """Return the one line that resolving ends with."""
    with pytest.raises(BundleError) as caught:
        resolved(shelf, *wanted, constraints=constraints)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the package index


def test_the_wheels_are_those_of_the_target_not_of_this_machine(shelf: Path) -> None:
    for tag in ("py3-none-any", "cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_34_x86_64"):
        wheel(shelf, "demo", tag=tag)
    wheel(shelf, "older", tag="cp38-abi3-manylinux_2_24_x86_64")
    assert resolved(shelf, "demo", "older") == [
        "demo-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "older-1.0-cp38-abi3-manylinux_2_24_x86_64.whl",
    ]


def test_a_constraint_is_kept(shelf: Path) -> None:
    wheel(shelf, "demo", "1.0")
    wheel(shelf, "demo", "2.0")
    assert resolved(shelf, "demo", constraints=("demo==1.0", "unknown==3")) == ["demo-1.0-py3-none-any.whl"]


def test_a_distribution_that_is_not_there_is_named_with_who_requires_it(shelf: Path) -> None:
    wheel(shelf, "demo", requires=["more>=1"])
    place = "for CPython 3.11 on linux x86_64"
    assert trouble(shelf, "demo") == f"the package index has nothing named more (required by demo) {place}"


def test_a_version_that_is_not_there_is_named(shelf: Path) -> None:
    wheel(shelf, "demo", requires=["more>=2"])
    wheel(shelf, "more", "1.0")
    assert trouble(shelf, "demo") == (
        "the package index has no wheel of more>=2 (required by demo) for CPython 3.11 on linux x86_64; it has 1.0"
    )


def test_a_distribution_without_wheels_is_refused(shelf: Path) -> None:
    wheel(shelf, "demo", requires=["source"])
    shutil.make_archive(str(shelf / "source-1.0"), "gztar", plugin_folder(shelf / "source"))
    assert trouble(shelf, "demo") == (
        "source (required by demo) comes as a source distribution only: a bundle takes wheels for CPython 3.11 on "
        "linux x86_64"
    )


def test_a_distribution_with_wheels_for_other_pythons_only_is_refused(shelf: Path) -> None:
    wheel(shelf, "demo", tag="cp312-cp312-manylinux_2_28_x86_64")
    assert trouble(shelf, "demo") == "the package index has nothing named demo for CPython 3.11 on linux x86_64"


def test_a_conflict_names_both_sides(shelf: Path) -> None:
    wheel(shelf, "demo", requires=["more<2"])
    wheel(shelf, "more", "1.0")
    wheel(shelf, "more", "2.0")
    assert trouble(shelf, "demo", constraints=("more==2.0",)) == (
        "versions conflict: demo 1.0 depends on more<2; The user requested (constraint) more==2.0"
    )


def test_no_network_is_said_as_that(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert trouble(shelf, "demo") == "the package index cannot be reached (looking for demo)"


def test_only_the_wheel_that_the_lock_names_is_fetched(shelf: Path) -> None:
    file = wheel(shelf, "demo", requires=["never-asked-for"])
    wheel(shelf, "demo", "2.0")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    locked = LockedDistribution("demo", "1.0", file.name, sha256)
    assert index.fetch([locked], nothing) == {"demo": file.read_bytes()}
    assert wheels.cached(file.name, sha256) == file.read_bytes()

    wheel(shelf, "demo", files={"demo/evil.py": b""})
    shutil.rmtree(wheels.cache_folder("wheels"))
    with pytest.raises(BundleError, match=r"demo==1\.0: the package index gives a file whose sha256 is not the one"):
        index.fetch([locked], nothing)


# --- what is required


def of(*files: Path) -> dict[str, wheels.Wheel]:
    """Read wheels, by name."""
    found = [wheels.read(file.name, file.read_bytes()) for file in files]
    return {item.name: item for item in found}


def test_dependencies_follow_extras_and_markers(shelf: Path) -> None:
    found = of(
        wheel(shelf, "a", requires=["b[fast]>=1", "d ; sys_platform == 'win32'"]),
        wheel(shelf, "b", requires=["c ; extra == 'fast'", "e ; extra == 'slow'"]),
        wheel(shelf, "c", requires=["b"]),
    )
    assert requirements.dependencies(found, {"a": ()}) == {"a": ["b"], "b": ["c"], "c": ["b"]}


def test_an_extra_that_is_asked_brings_what_it_requires_and_may_be_made_of_others(shelf: Path) -> None:
    found = of(
        wheel(shelf, "a", requires=["b ; extra == 'One_More'", "a[one.more] ; extra == 'all'", "c ; extra == 'slow'"]),
        wheel(shelf, "b"),
    )
    for asked in ("one-more", "all"):
        assert requirements.dependencies(found, {"a": (asked,)}) == {"a": ["b"], "b": []}
        assert requirements.inputs([found["a"]], [], {"a": (asked,)}) == (f"a[{asked}]", "b")
    assert requirements.inputs([found["a"]], [], {"a": ()}) == ()


def test_what_a_plugin_asks_of_another_is_required_too(shelf: Path) -> None:
    found = of(wheel(shelf, "a", requires=["b[fast]", "d[fast]"]), wheel(shelf, "b", requires=["c ; extra == 'fast'"]))
    assert requirements.inputs(found.values(), ["d==1"], {}) == ("c", "d==1", "d[fast]")


def test_what_is_missing_or_does_not_fit_is_named(shelf: Path) -> None:
    found = of(wheel(shelf, "a", requires=["b>=2"]), wheel(shelf, "b"))
    with pytest.raises(BundleError, match=r"a requires b>=2, found 1\.0"):
        requirements.dependencies(found, {"a": ()})
    with pytest.raises(BundleError, match="a requires b, which is not in the bundle"):
        requirements.dependencies({"a": found["a"]}, {"a": ()})


def test_a_forbidden_distribution_is_refused_with_who_requires_it() -> None:
    loaded = manifest.load("community")
    graph = {"clavitor-host": ["clavitor-license-minter"], "clavitor-license-minter": []}
    with pytest.raises(
        BundleError,
        match=r"^bundles/community.toml: clavitor-license-minter is forbidden by forbid.distributions "
        r"\(clavitor-license-minter\), and clavitor-host requires it$",
    ):
        requirements.check_forbidden(loaded, graph)


def test_our_own_distributions_are_never_looked_for_on_an_index(shelf: Path) -> None:
    found = of(wheel(shelf, "clavitor-acme", requires=["clavitor-fleet", "anyio>=4"]))
    with pytest.raises(BundleError, match=r"clavitor-acme requires clavitor-fleet, which is not in \[plugins\]"):
        requirements.inputs(found.values(), [], {})
    assert requirements.inputs(found.values(), ["clavitor-fleet==1"], {}) == ("anyio>=4", "clavitor-fleet==1")


# --- the file


@pytest.fixture
def acme(tmp_path: Path) -> Manifest:
    """A third party's manifest, with a plugin in a folder."""
    text = '[bundle]\nextends = "minimal"\nname = "acme"\n[plugins]\nclavitor-acme = { path = "plugin" }\n'
    plugin_folder(tmp_path / "acme" / "plugin")
    return manifest.load(write(tmp_path / "acme", {"acme.toml": text}) / "acme.toml")


def small_lock(loaded: Manifest, here: list[Local]) -> lock.Lock:
    """Return a lock of the local distributions alone."""
    wanted = resolve.lock_inputs(loaded, here)
    locked = tuple(item.locked for item in here)
    return lock.Lock(loaded.name, loaded.python, loaded.platform, wanted, locked)


@pytest.fixture
def here(acme: Manifest) -> list[Local]:
    """What lies here of it."""
    return resolve.local_distributions(acme, lambda line: None)


def test_a_lock_reads_back_as_it_was_written(acme: Manifest, here: list[Local]) -> None:
    made = small_lock(acme, here)
    lock.write(acme, made)
    assert lock.read(acme) == made
    assert [item.path for item in made.local] == [".", "plugins/community", "plugin"]
    assert acme.lock_file.read_text().startswith(
        "# What acme.toml resolved to. Written by: clavitor bundle lock acme.toml\n"
    )
    assert str(acme.root) not in acme.lock_file.read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, "acme.lock is missing; run: clavitor bundle lock acme.toml"),
        (lambda text: text[:-9], "acme.lock is damaged: "),
        (lambda text: text.replace("format = 1", "format = 2"), "acme.lock is damaged: format 2 is not 1"),
        (lambda text: text.replace("sha256 = ", "sha = "), "acme.lock is damaged: there is no 'sha256'"),
        (lambda text: text.replace('sha256 = "', 'sha256 = "x'), "clavitor-host has no usable wheel or sha256"),
        (lambda text: text.replace('wheel = "', 'wheel = "../'), "clavitor-host has no usable wheel or sha256"),
    ],
)
def test_a_lock_that_cannot_be_used_says_why(
    acme: Manifest, here: list[Local], change: Callable[[str], str] | None, says: str
) -> None:
    if change is not None:
        acme.lock_file.write_text(change(lock.to_text(acme, small_lock(acme, here))))
    with pytest.raises(BundleError) as caught:
        lock.read(acme)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_source_makes_a_lock_stale(acme: Manifest, here: list[Local]) -> None:
    made = small_lock(acme, here)
    write(acme.root, {"plugin/clavitor_acme/plugin.py": "plugin = None\n"})
    now = resolve.local_distributions(acme, lambda line: None)
    was, new = here[-1].locked.sha256[:4], now[-1].locked.sha256[:4]
    with pytest.raises(BundleError) as caught:
        lock.check_fresh(acme, made, [item.locked for item in now], made.inputs)
    assert str(caught.value) == (
        f"acme.lock is stale: clavitor-acme was locked as {was}…, its source now builds {new}…; "
        "run: clavitor bundle lock acme.toml"
    )


def test_every_other_difference_makes_a_lock_stale(acme: Manifest, here: list[Local]) -> None:
    made = small_lock(acme, here)
    local = [item.locked for item in here]
    lock.check_fresh(acme, made, local, made.inputs)

    def stale(changed: lock.Lock, local: list[LockedDistribution] = local) -> str:
        with pytest.raises(
            BundleError, match=r"^acme\.lock is stale: .*; run: clavitor bundle lock acme\.toml$"
        ) as caught:
            lock.check_fresh(acme, changed, local, made.inputs)
        return str(caught.value)

    assert "clavitor-acme is in the manifest and not in the lock" in stale(
        made._replace(distributions=made.distributions[:-1])
    )
    assert "clavitor-acme is in the lock and not in the manifest" in stale(made, local[:-1])
    assert "the plugins are in another order" in stale(made, [local[0], local[2], local[1]])
    assert "what is required changed: new>=1" in stale(made._replace(inputs=(*made.inputs, "new>=1")))
    assert "made for bundle.name other, the manifest says acme" in stale(made._replace(manifest="other"))


def test_what_changed_between_two_locks_is_told() -> None:
    one, two = (LockedDistribution("a", version, "a.whl", version * 64) for version in "12")
    rebuilt = one._replace(sha256="3" * 64)
    empty = lock.Lock("x", "3.11", "linux_x86_64", (), ())
    with_one, with_two, with_rebuilt = (empty._replace(distributions=(item,)) for item in (one, two, rebuilt))
    told = [
        [str(change) for change in lock.differences(*pair)]
        for pair in (
            (None, with_one),
            (with_one, empty),
            (with_one, with_two),
            (with_one, with_rebuilt),
            (with_one, with_one),
        )
    ]
    assert told == [["added a 1"], ["removed a 1"], ["changed a 1 → 2"], ["changed a 1 (1111… → 3333…)"], []]


# --- resolving


def test_without_new_requirements_the_bases_lock_is_enough_and_no_index_is_asked(acme: Manifest) -> None:
    made = resolve.Resolver(lambda line: None).resolve(acme, nothing)  # the shelf is empty
    assert made.fetched == lock.read(manifest.load("minimal")).fetched
    assert [item.name for item in made.local] == ["clavitor-host", "clavitor-community", "clavitor-acme"]


def test_tested_versions_are_kept_and_new_ones_are_added(acme: Manifest, shelf: Path) -> None:
    stock(shelf)
    wheel(shelf, "left-pad", "3.0")
    wheel(shelf, "anyio", "99.0")
    plugin_folder(acme.root / "plugin", requires=["clavitor-host", "left-pad>=1"])
    resolver = resolve.Resolver(lambda line: None)
    first = resolver.resolve(acme, nothing)
    assert {item.name: item.version for item in first.fetched}["left-pad"] == "3.0"
    assert set(first.fetched) >= set(lock.read(manifest.load("minimal")).fetched)

    lock.write(acme, first)
    wheel(shelf, "left-pad", "4.0")
    assert resolver.resolve(acme, nothing) == first
    upgraded = resolver.resolve(acme, nothing, upgrade=True)
    assert [str(change) for change in lock.differences(first, upgraded)] == ["changed left-pad 3.0 → 4.0"]


def test_a_pinned_plugin_comes_from_the_index_and_finds_our_host_here(acme: Manifest, shelf: Path) -> None:
    stock(shelf)
    wheel(shelf, "clavitor-acme", "7.1", requires=["clavitor-host>=1.0"])
    wheel(shelf, "clavitor-host", "99.0")  # somebody else's
    text = acme.file.read_text().replace('path = "plugin"', 'requirement = "clavitor-acme==7.1"')
    acme.file.write_text(text)
    made = resolve.Resolver(lambda line: None).resolve(manifest.load(acme.file), nothing)
    versions = {item.name: item.version for item in made.distributions}
    assert (versions["clavitor-acme"], versions["clavitor-host"]) == ("7.1", made.local[0].version)
    assert "clavitor-acme==7.1" in made.inputs


def test_another_file_than_the_tested_one_is_refused(acme: Manifest, shelf: Path) -> None:
    if not (manifest.checkout() / "uv.lock").exists():
        pytest.skip("the tested files are known from uv.lock")
    stock(shelf)
    (blinker,) = shelf.glob("blinker-*.whl")
    wheel(shelf, "blinker", blinker.name.split("-")[1])
    with pytest.raises(
        BundleError, match=r"^blinker-.*: the package index gives another file than the one in uv\.lock"
    ):
        resolve.Resolver(lambda line: None).resolve(acme, nothing, upgrade=True)


def test_a_forbidden_dependency_is_refused_while_locking(acme: Manifest, shelf: Path) -> None:
    stock(shelf)
    wheel(shelf, "left-pad", "3.0")
    plugin_folder(acme.root / "plugin", requires=["clavitor-host", "left-pad>=1"])
    acme.file.write_text(acme.file.read_text() + '[forbid]\ndistributions = ["left-*"]\n')
    with pytest.raises(BundleError) as caught:
        resolve.Resolver(lambda line: None).resolve(manifest.load(acme.file), nothing)
    assert str(caught.value) == (
        "acme.toml: left-pad is forbidden by forbid.distributions (left-*), and clavitor-acme requires it"
    )


# --- extras


def with_extras(acme: Manifest, *extras: str, **given: str) -> Manifest:
    """Return the manifest with extras asked of its plugin, given as a folder or otherwise."""
    source = given or {"path": "plugin"}
    lines = "".join(f"{key} = {value!r}\n" for key, value in source.items())
    head = acme.file.read_text().partition("[plugins")[0]
    acme.file.write_text(f"{head}[plugins.clavitor-acme]\n{lines}extras = {list(extras)!r}\n")
    return manifest.load(acme.file)


@pytest.fixture
def fast(acme: Manifest, shelf: Path) -> Manifest:
    """The plugin has two extras, and a shelf has what they require; the manifest asks for none."""
    stock(shelf)
    wheel(shelf, "left-pad", "3.0")
    extras = {"Fast_Path": ["left-pad>=1"], "same": ["quart"]}
    plugin_folder(acme.root / "plugin", extras=extras)
    return acme


def test_an_extra_brings_what_it_requires_and_makes_the_lock_without_it_stale(fast: Manifest) -> None:
    resolver = resolve.Resolver(lambda line: None)
    before = resolver.resolve(fast, nothing)
    asking = with_extras(fast, "FAST.path")
    after = resolver.resolve(asking, nothing)
    assert [str(change) for change in lock.differences(before, after)] == ["added left-pad 3.0"]
    assert set(after.inputs) - set(before.inputs) == {"clavitor-acme[fast-path]", "left-pad>=1"}

    here = resolve.local_distributions(asking, lambda line: None)
    local, now = [item.locked for item in here], resolve.lock_inputs(asking, here)
    lock.check_fresh(asking, after, local, now)
    with pytest.raises(BundleError, match=r"stale: what is required changed: clavitor-acme\[fast-path\], left-pad>=1;"):
        lock.check_fresh(asking, before, local, now)


def test_an_extra_that_requires_nothing_new_makes_the_lock_stale_too(fast: Manifest) -> None:
    before = resolve.Resolver(lambda line: None).resolve(fast, nothing)
    asking = with_extras(fast, "same")
    here = resolve.local_distributions(asking, lambda line: None)
    with pytest.raises(BundleError, match=r"what is required changed: clavitor-acme\[same\], quart;"):
        lock.check_fresh(asking, before, [item.locked for item in here], resolve.lock_inputs(asking, here))


@pytest.mark.parametrize("source", ["wheel", "requirement"])
def test_wheels_and_pinned_plugins_have_extras_too(fast: Manifest, shelf: Path, source: str) -> None:
    files = {"clavitor_acme/plugin.py": b""}
    requires = ["clavitor-host", "left-pad ; extra == 'fast'"]
    file = wheel(shelf, "clavitor-acme", "7.1", requires=requires, files=files, metadata="Provides-Extra: fast\n")
    value = {"wheel": f"../index/{file.name}", "requirement": "Clavitor_Acme == 7.1"}[source]
    asking = with_extras(fast, "fast", **{source: value})
    made = resolve.Resolver(lambda line: None).resolve(asking, nothing)
    assert {item.name: item.version for item in made.distributions}["left-pad"] == "3.0"
    assert {"wheel": "clavitor-acme[fast]", "requirement": "clavitor-acme[fast]==7.1"}[source] in made.inputs

    with pytest.raises(BundleError) as caught:
        resolve.Resolver(lambda line: None).resolve(with_extras(fast, "fats", **{source: value}), nothing)
    assert str(caught.value) == "acme.toml: plugins.clavitor-acme: no extra fats (there are: fast)"


def test_an_extra_that_a_plugin_does_not_have_is_refused_with_those_it_has(acme: Manifest) -> None:
    resolver = resolve.Resolver(lambda line: None)
    with pytest.raises(BundleError) as caught:
        resolver.resolve(with_extras(acme, "fast"), nothing)
    assert str(caught.value) == "acme.toml: plugins.clavitor-acme: no extra fast (it has none)"
    plugin_folder(acme.root / "plugin", extras={"Fast_Path": [], "all": []})
    with pytest.raises(BundleError) as caught:
        resolver.resolve(with_extras(acme, "fast"), nothing)
    assert str(caught.value) == "acme.toml: plugins.clavitor-acme: no extra fast (there are: all, fast-path)"


def test_an_extra_does_not_bring_in_what_is_forbidden(fast: Manifest) -> None:
    asking = with_extras(fast, "fast-path")
    asking.file.write_text(asking.file.read_text() + '[forbid]\ndistributions = ["left-*"]\n')
    with pytest.raises(BundleError, match=r"left-pad is forbidden .*, and clavitor-acme requires it$"):
        resolve.Resolver(lambda line: None).resolve(manifest.load(asking.file), nothing)


def test_the_telemetry_library_of_the_fleet_comes_in_the_tested_version(shelf: Path, tmp_path: Path) -> None:
    if not (manifest.checkout() / "uv.lock").exists():
        pytest.skip("the tested versions are known from uv.lock")
    stock(shelf)
    versions = shelve_tested(shelf, "clickhouse-connect")
    wheel(shelf, "clickhouse-connect", "99.0")
    text = '[bundle]\nextends = "community"\nname = "acme"\n[plugins]\nclavitor-fleet = { extras = ["clickhouse"] }\n'
    asking = manifest.load(write(tmp_path / "fleet", {"acme.toml": text}) / "acme.toml")
    made = resolve.Resolver(lambda line: None).resolve(asking, nothing)
    found = {item.name: item.version for item in made.fetched}
    assert "clickhouse-connect" in found
    assert found == {name: versions[name] for name in found}
    assert "clavitor-fleet[clickhouse]" in made.inputs

    here = resolve.local_distributions(asking, lambda line: None)
    everything = {item.wheel.name: item.wheel for item in here}
    for item in made.fetched:
        everything[item.name] = wheels.read(item.wheel, (shelf / item.wheel).read_bytes())
    graph = requirements.dependencies(everything, {resolve.HOST: (), **asking.extras})
    assert "clickhouse-connect" in graph["clavitor-fleet"]
    assert graph.keys() == everything.keys()


# --- the tools


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.12.1")
    with pytest.raises(BundleError, match=r"locked and built with CPython 3\.11, this is CPython 3\.12\.1"):
        tools.check_tools()


def test_a_missing_extra_is_said_as_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_spec", lambda name: None if name == "hatchling" else name)
    with pytest.raises(BundleError, match=r"^hatchling is not installed: install clavitor-host\[bundle\]$"):
        tools.check_tools()
