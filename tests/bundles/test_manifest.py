"""Manifests: what they say, what they may extend, and one line for every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.manifest import Forbid, load, names
from tests.bundles.making import plugin_folder, wheel, write

COMMUNITY = """\
[bundle]
name = "clavitor-community"
edition = "community"
license = "Elastic-2.0"
[plugins]
clavitor-community = { path = "plugins/community" }
[forbid]
distributions = ["clavitor-secret*"]
strings = ["hush"]
"""
EXTENDING = '[bundle]\nname = "mine"\nextends = "community"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one manifest."""
    plugin = {"plugins/community/pyproject.toml": "", "pyproject.toml": "", "bundles/community.toml": COMMUNITY}
    return write(tmp_path / "checkout", plugin)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A third party's folder, with a plugin in it."""
    plugin_folder(tmp_path / "acme" / "plugin")
    return tmp_path / "acme"


def refusal(root: Path, folder: Path, text: str) -> str:
    """Return the one line that a manifest is refused with."""
    write(folder, {"mine.toml": text})
    with pytest.raises(BundleError) as caught:
        load(folder / "mine.toml", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_manifests_of_this_checkout_can_be_read() -> None:
    manifests = [load(name) for name in names()]
    assert {(m.name, m.edition) for m in manifests} >= {
        ("clavitor-community", "community"),
        ("clavitor-commercial", "commercial"),
        ("clavitor-minimal", "community"),
    }
    assert all(m.forbid.rule_against("clavitor-license-minter") for m in manifests)


def test_a_manifest_is_found_by_name_and_its_paths_count_from_the_checkout(root: Path) -> None:
    manifest = load("community", root)
    assert (manifest.label, manifest.lock_file.name) == ("bundles/community.toml", "community.lock")
    (plugin,) = manifest.plugins
    assert (plugin.file, plugin.module, plugin.optional) == (
        root / "plugins/community",
        "clavitor_community.plugin",
        False,
    )


def test_an_extending_manifest_adds_to_its_base(root: Path, elsewhere: Path) -> None:
    wheel(elsewhere / "wheels", "acme-more")
    text = """\
[bundle]
extends = "community"
name = "acme-vault"
license = "MIT"
[plugins]
clavitor-acme = { path = "plugin", optional = true, module = "clavitor_acme.plugin" }
acme-more = { wheel = "wheels/acme_more-1.0-py3-none-any.whl" }
acme-index = { requirement = "Acme_Index==1.2" }
[forbid]
strings = ["more", "hush"]
"""
    manifest = load(write(elsewhere, {"mine.toml": text}) / "mine.toml", root)
    assert (manifest.name, manifest.edition, manifest.license) == ("acme-vault", "community", "MIT")
    assert [(plugin.distribution, plugin.kind, plugin.optional) for plugin in manifest.plugins] == [
        ("clavitor-community", "path", False),
        ("clavitor-acme", "path", True),
        ("acme-more", "wheel", False),
        ("acme-index", "requirement", False),
    ]
    assert manifest.forbid == Forbid(("clavitor-secret*",), ("hush", "more"))
    assert manifest.files == (elsewhere / "mine.toml", root / "bundles/community.toml")


def test_extras_are_kept_in_one_form_wherever_they_stand(root: Path, elsewhere: Path) -> None:
    wheel(elsewhere / "wheels", "acme-more")
    text = """\
[bundle]
extends = "community"
name = "acme-vault"
[plugins]
clavitor-acme = { path = "plugin", extras = ["Fast_Path", "all", "fast.path"] }
acme-more = { wheel = "wheels/acme_more-1.0-py3-none-any.whl", extras = [] }
acme-index = { requirement = "Acme_Index[B_b, a] == 1.2", extras = ["c"] }
"""
    _, acme, more, index = load(write(elsewhere, {"mine.toml": text}) / "mine.toml", root).plugins
    assert (acme.extras, more.extras, index.extras) == (("all", "fast-path"), (), ("a", "b-b", "c"))
    assert (acme.asked, more.asked, acme.pinned) == ("clavitor-acme[all,fast-path]", "acme-more", None)
    assert index.pinned == "acme-index[a,b-b,c]==1.2"


def test_an_extending_manifest_adds_extras_to_a_plugin_of_its_base(root: Path, elsewhere: Path) -> None:
    """The plugin keeps its source and place; a manifest that extends this one adds to both."""
    for name, base, extra in (("first", "community", "One"), ("second", "first", "two")):
        plugins = f'clavitor-acme = {{ path = "plugin" }}\nclavitor-community = {{ extras = ["{extra}"] }}\n'
        if name == "second":
            plugins = plugins.partition("\n")[2]
        write(elsewhere, {f"{name}.toml": f'[bundle]\nname = "{name}"\nextends = "{base}"\n[plugins]\n{plugins}'})
    assert load("community", root).extras == {"clavitor-community": ()}
    manifest = load(elsewhere / "second.toml", root)
    assert manifest.extras == {"clavitor-community": ("one", "two"), "clavitor-acme": ()}
    assert manifest.plugins[0].file == root / "plugins/community"


def test_the_manifests_in_the_documentation_can_be_read(root: Path, tmp_path: Path) -> None:
    """Each as it stands there: what it shows is copied by everyone who extends an edition."""
    text = (Path(__file__).parents[2] / "docs/bundles.md").read_text("utf-8")
    stock, extending = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (root / "bundles/community.toml").write_text(stock)
    base = load("community", root)
    assert (base.name, base.edition, base.forbid.strings) == ("clavitor-community", "community", ("a word",))
    plugin_folder(tmp_path / "acme-clavitor")
    manifest = load(write(tmp_path / "acme", {"acme-vault.toml": extending}) / "acme-vault.toml", root)
    assert (manifest.name, manifest.edition) == ("acme-vault", "community")
    assert [plugin.distribution for plugin in manifest.plugins] == ["clavitor-community", "acme-clavitor"]
    assert manifest.forbid == base.forbid


def test_a_base_beside_the_manifest_comes_before_the_checkouts(root: Path, elsewhere: Path) -> None:
    own = COMMUNITY.replace("clavitor-community", "clavitor-acme").replace("plugins/community", "plugin")
    write(elsewhere, {"community.toml": own, "mine.toml": EXTENDING})
    assert [plugin.distribution for plugin in load(elsewhere / "mine.toml", root).plugins] == ["clavitor-acme"]
    assert load(elsewhere / "mine.toml", root).files[1] == elsewhere / "community.toml"


def test_extends_may_stand_above_the_tables_too(root: Path, elsewhere: Path) -> None:
    write(elsewhere, {"mine.toml": 'extends = "community"\n[bundle]\nname = "mine"\n'})
    assert load(elsewhere / "mine.toml", root).edition == "community"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[bundle\n", "mine.toml: Expected ']' at the end of a table declaration (at line 1, column 8)"),
        ("[bundel]\n", 'mine.toml: there is no key bundel; did you mean "bundle"?'),
        ('[bundle]\nlicence = "MIT"\n', 'mine.toml: there is no key bundle.licence; did you mean "license"?'),
        ('[bundle]\nname = ""\n[plugins]\n', "mine.toml: bundle.name: expected a text"),
        ("[plugins]\n", "mine.toml: bundle: the table is missing"),
        ('[bundle]\nname = "x"\n', "mine.toml: plugins: the table is missing"),
        ('[bundle]\nname = "x"\n[plugins]\n', "mine.toml: bundle.edition is missing"),
        ('[bundle]\nname = "x"\nedition = "free"\nlicense = "MIT"\n[plugins]\n', "is not one of community, commercial"),
        ('[bundle]\nname = "A b"\nedition = "community"\nlicense = "MIT"\n[plugins]\n', "bundle.name: 'A b' is not"),
        ('[bundle]\nname = "x"\nedition = "community"\nlicense = "no/t"\n[plugins]\n', "is not an SPDX licence id"),
        ('[bundle]\nname = "x"\nedition = "community"\nlicense = "MIT"\n[plugins]\n', "plugins: there are none"),
        ('[bundle]\nextends = "comunity"\n', "no manifest 'comunity' beside it or in the checkout's bundles/; did you"),
        ('[bundle]\nextends = "../x"\n', "no manifest '../x'"),
        (
            EXTENDING + 'edition = "commercial"\n',
            "bundle.edition: it extends bundles/community.toml, which is community",
        ),
        (
            EXTENDING + '[plugins]\nclavitor-community = { path = "plugin" }\n',
            "plugins.clavitor-community: bundles/community.toml has it already",
        ),
        (
            EXTENDING + '[plugins]\nclavitor-community = { path = "plugin", extras = ["x"] }\n',
            "plugins.clavitor-community: bundles/community.toml has it already",
        ),
        (
            EXTENDING + '[plugins]\nclavitor-comunity = { extras = ["x"] }\n',
            "plugins.clavitor-comunity: bundles/community.toml has no such plugin to add extras to; "
            'did you mean "clavitor-community"?',
        ),
        (
            EXTENDING + '[plugins]\nclavitor-community = { extras = ["x"], optional = true }\n',
            "plugins.clavitor-community: expected exactly one of path, wheel, requirement, found 0",
        ),
        (
            EXTENDING + '[plugins]\nclavitor-community = { extras = "x" }\n',
            "extras: expected a list of extras, by name",
        ),
        (
            EXTENDING + '[plugins]\nx = { path = "plugin", extras = ["a]"] }\n',
            "mine.toml: plugins.x.extras: 'a]' is not the name of an extra",
        ),
        (
            EXTENDING + '[plugins]\nx = { requirement = "x[a,,b]==1" }\n',
            "mine.toml: plugins.x.requirement: '' is not the name of an extra",
        ),
        ('extends = "community"\n' + EXTENDING, "mine.toml: extends and bundle.extends: give one of them"),
        ('extends = "community"\n[bundle]\n', "mine.toml: bundle.name is missing"),
        (
            'extends = "community"\n[bundle]\nname = "clavitor-community"\n',
            "mine.toml: bundle.name: clavitor-community is what it extends; give this one a name of its own",
        ),
        (EXTENDING + '[plugins]\nx = { path = "nowhere" }\n', "plugins.x.path: there is no folder nowhere"),
        (EXTENDING + '[plugins]\nx = { path = "." }\n', "plugins.x.path: . has no pyproject.toml"),
        (EXTENDING + '[plugins]\nx = { wheel = "x.whl" }\n', "plugins.x.wheel: there is no wheel x.whl"),
        (EXTENDING + '[plugins]\nx = { pth = "x" }\n', 'no key plugins.x.pth; did you mean "path"?'),
        (
            EXTENDING + '[plugins]\nx = { path = "plugin", wheel = "x.whl" }\n',
            "exactly one of path, wheel, requirement",
        ),
        (EXTENDING + '[plugins]\nx = "plugin"\n', "plugins.x: expected a table such as"),
        (
            EXTENDING + '[plugins]\nX_y = { path = "plugin" }\n',
            "plugins.X_y: write the distribution's name in lower case",
        ),
        (EXTENDING + '[plugins]\nx = { requirement = "x>=1" }\n', 'expected "x==<version>", found "x>=1"'),
        (EXTENDING + '[plugins]\nx = { requirement = "y==1" }\n', 'expected "x==<version>", found "y==1"'),
        (
            EXTENDING + '[plugins]\nx = { path = "plugin", optional = 1 }\n',
            "plugins.x.optional: expected true or false",
        ),
        (EXTENDING + '[plugins]\nx = { path = "plugin", module = "a b" }\n', "'a b' is not the name of a module"),
        (
            EXTENDING + '[plugins]\nclavitor-secret-x = { path = "plugin" }\n',
            "plugins.clavitor-secret-x is forbidden by forbid.distributions (clavitor-secret*)",
        ),
        (EXTENDING + '[forbid]\nstring = ["x"]\n', 'no key forbid.string; did you mean "strings"?'),
        (EXTENDING + '[forbid]\nstrings = [""]\n', "forbid.strings: expected a list of texts, none of them empty"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(root: Path, elsewhere: Path, text: str, says: str) -> None:
    assert says in refusal(root, elsewhere, text)


def test_manifests_that_extend_each_other_are_refused(root: Path, elsewhere: Path) -> None:
    write(elsewhere, {"other.toml": '[bundle]\nextends = "mine"\n'})
    assert refusal(root, elsewhere, '[bundle]\nextends = "other"\n') == (
        "mine.toml: bundle.extends goes in a circle: mine.toml → other.toml → mine.toml"
    )


def test_an_unknown_name_says_which_there_are(root: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest comunity in bundles/; did you mean \"community\"\?"):
        load("comunity", root)
    with pytest.raises(BundleError, match=r"nowhere\.toml: there is no such manifest"):
        load("nowhere.toml", root)
