"""What a plugin must be to be registered, and what happens to one that is not (editions.md section 2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from io import StringIO
from types import ModuleType
from typing import Any

import pytest

from clavitor_host import hookspecs
from clavitor_host.errors import PluginError
from clavitor_host.hookspecs import hookimpl
from clavitor_host.plugins.api_range import in_range
from clavitor_host.plugins.models import FrozenPlugin, Plugin
from clavitor_host.plugins.registry import PluginRegistry

Register = Callable[..., PluginRegistry]


def plugin(called: str = "probe", **members: Any) -> type[Plugin]:
    return type(called.title(), (Plugin,), {"name": called, "version": "1.2", **members})


def test_a_plugin_is_loaded_with_its_hooks_in_the_order_of_the_contract(register: Register) -> None:
    class Probe(Plugin):
        name = "probe"
        version = "1.2"

        @hookimpl
        async def authorize(self, action: str) -> None: ...

        @hookimpl
        async def startup(self, host: Any) -> None: ...

    record = register(Probe).get("probe")
    assert record is not None
    assert record.state == "loaded"
    assert record.hooks == ("startup", "authorize")
    shown = record.as_dict()
    assert shown["name"] == "probe"
    assert shown["version"] == "1.2"
    assert shown["clavitor_api"] == ">=1.0,<2"
    assert [hook["position"] for hook in shown["hooks"]] == [1, 1]


def test_an_unknown_hook_is_refused_with_the_nearest_right_one(register: Register) -> None:
    @hookimpl
    async def start_up(self: Any) -> None: ...

    with pytest.raises(PluginError, match=r'plugin probe: .*no hook "start_up"; did you mean "startup"\?'):
        register(plugin(start_up=start_up))


def test_a_hook_that_lacks_its_mark_is_refused(register: Register) -> None:
    async def startup(self: Any) -> None: ...

    with pytest.raises(PluginError, match='"startup" is the name of a hook but is not marked'):
        register(plugin(startup=startup))


def test_an_unknown_argument_is_refused_with_the_nearest_right_one(register: Register) -> None:
    @hookimpl
    async def entry_changed(self: Any, chnge: Any) -> None: ...

    with pytest.raises(PluginError, match=r'argument "chnge" does not exist; did you mean "change"\?'):
        register(plugin(entry_changed=entry_changed))


def test_an_argument_with_a_default_is_refused_because_pluggy_never_passes_it(register: Register) -> None:
    @hookimpl
    async def entry_changed(self: Any, change: Any = None) -> None: ...

    with pytest.raises(PluginError, match='argument "change" has a default'):
        register(plugin(entry_changed=entry_changed))


def test_starred_and_keyword_only_arguments_are_refused(register: Register) -> None:
    @hookimpl
    async def starred(self: Any, **rest: Any) -> None: ...

    @hookimpl
    async def keyword(self: Any, *, change: Any) -> None: ...

    for function in (starred, keyword):
        with pytest.raises(PluginError, match="would never be passed"):
            register(plugin(entry_changed=function))


def test_the_wrong_colour_is_refused(register: Register) -> None:
    @hookimpl
    def sync(self: Any) -> None: ...

    @hookimpl
    async def not_sync(self: Any) -> None: ...

    @hookimpl
    async def generator(self: Any) -> AsyncIterator[None]:
        yield

    @hookimpl
    def plain_generator(self: Any) -> Iterator[None]:
        yield

    with pytest.raises(PluginError, match='"startup" must be `async def`'):
        register(plugin(startup=sync))
    with pytest.raises(PluginError, match='"commands" must be plain `def`'):
        register(plugin(commands=not_sync))
    with pytest.raises(PluginError, match='"startup" is a generator'):
        register(plugin(startup=generator))
    with pytest.raises(PluginError, match='"commands" is a generator'):
        register(plugin(commands=plain_generator))


@pytest.mark.parametrize("mark", [hookimpl(wrapper=True), hookimpl(hookwrapper=True)])
def test_wrappers_are_refused(register: Register, mark: Any) -> None:
    def commands(self: Any) -> Iterator[None]:
        yield

    with pytest.raises(PluginError, match="wrappers are not supported"):
        register(plugin(commands=mark(commands)))


def test_specname_names_the_hook_and_a_hook_has_one_implementation_in_a_plugin(register: Register) -> None:
    @hookimpl(specname="startup")
    async def prepare(self: Any) -> None: ...

    @hookimpl
    async def startup(self: Any) -> None: ...

    record = register(plugin(prepare=prepare)).get("probe")
    assert record is not None
    assert record.hooks == ("startup",)
    with pytest.raises(PluginError, match='"startup" is implemented twice'):
        register(plugin(prepare=prepare, startup=startup))


def test_a_plugin_for_another_api_version_is_refused(register: Register) -> None:
    with pytest.raises(PluginError, match=r"plugin probe: .*needs plugin API >=1\.1,<2, this host has 1\.0"):
        register(plugin(clavitor_api=">=1.1,<2"), api_version="1.0")
    register(plugin(clavitor_api=">=1.1,<2"), api_version="1.1")


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("1.0", ">=1.0,<2", True),
        ("1.9", ">=1.0,<2", True),
        ("1.10", ">=1.9", True),
        ("2.0", ">=1.0,<2", False),
        ("1.0", ">1.0", False),
        ("1.0", "==1", True),
        ("1.2", ">= 1.0, != 1.2", False),
        ("1.2", "<=1.2.0", True),
    ],
)
def test_api_ranges(version: str, specifier: str, expected: bool) -> None:
    assert in_range(version, specifier) is expected


@pytest.mark.parametrize("specifier", ["", "1.0", ">=1.0,", "~=1.0", ">=1.x", ">=1.0 <2", ">=" + "9" * 50])
def test_an_unreadable_api_range_is_an_error(register: Register, specifier: str) -> None:
    with pytest.raises(ValueError, match="is not a version range"):
        in_range("1.0", specifier)
    with pytest.raises(PluginError, match=r"plugin probe: .*is not a version range"):
        register(plugin(clavitor_api=specifier))


@pytest.mark.parametrize("name", ["", "Probe", "my-plugin", "1st", "a__b", "a_", "host", None, "x" * 41])
def test_a_name_must_be_a_lower_case_word(register: Register, name: Any) -> None:
    cls = type("Probe", (Plugin,), {"name": name, "version": "1"})
    with pytest.raises(PluginError, match=r"dist-probe|plugin x"):
        register(cls)


def test_two_plugins_of_one_name_stop_the_start_naming_both(register: Register) -> None:
    one = type("One", (Plugin,), {"name": "same", "version": "1"})
    two = type("Two", (Plugin,), {"name": "same", "version": "1"})
    with pytest.raises(PluginError, match='named "same": dist-one and dist-two'):
        register(one, two, optional=(two,))


def test_something_that_is_no_plugin_class_is_refused() -> None:
    with pytest.raises(PluginError, match="not a subclass"):
        PluginRegistry([FrozenPlugin("dist", object)], "community")  # type: ignore[arg-type]


def test_an_error_in_the_constructor_stops_a_required_plugin_and_quarantines_an_optional_one(
    register: Register,
) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("no such device")

    broken = plugin(__init__=fail)
    with pytest.raises(PluginError, match="plugin probe: registration failed: RuntimeError: no such device"):
        register(broken)
    record = register(broken, optional=(broken,)).get("probe")
    assert record is not None
    assert record.state == "quarantined"
    assert record.last_error == "plugin probe: registration failed: RuntimeError: no such device"
    assert record.as_dict()["state"] == "quarantined"


def test_an_optional_plugin_for_another_api_is_quarantined_and_the_rest_runs(register: Register) -> None:
    other = plugin(clavitor_api=">=3")
    registry = register(other, plugin("third"), optional=(other,))
    assert [(record.name, record.state) for record in registry.records] == [
        ("edition", "loaded"),
        ("probe", "quarantined"),
        ("third", "loaded"),
    ]


def test_each_registry_makes_instances_of_its_own(register: Register) -> None:
    cls = plugin()
    one, two = register(cls).get("probe"), register(cls).get("probe")
    assert one and two
    assert one.plugin is not two.plugin


def test_a_single_owner_hook_with_no_owner_stops_the_start() -> None:
    with pytest.raises(PluginError, match=r'no plugin implements "edition_name"; one must \(loaded: probe\)'):
        PluginRegistry([FrozenPlugin("dist", plugin())], "community")


def test_a_single_owner_hook_with_two_owners_names_both(register: Register) -> None:
    @hookimpl
    def edition_name(self: Any) -> str:
        return "community"

    other = plugin(edition_name=edition_name)
    with pytest.raises(PluginError, match='more than one plugin implements "edition_name": edition, probe'):
        register(other, optional=(other,))


def test_the_edition_must_be_the_one_of_the_bundle() -> None:
    def owner(value: str) -> FrozenPlugin:
        @hookimpl
        def edition_name(self: Any) -> str:
            return value

        return FrozenPlugin("dist", plugin(edition_name=edition_name))

    assert PluginRegistry([owner("commercial")], "commercial").edition == "commercial"
    assert PluginRegistry([owner("commercial")]).edition == "commercial"
    with pytest.raises(PluginError, match="plugin probe makes this the commercial edition, its bundle is community"):
        PluginRegistry([owner("commercial")], "community")
    with pytest.raises(PluginError, match="'gold' is not an edition"):
        PluginRegistry([owner("gold")])


def test_call_order_is_last_loaded_first_with_tryfirst_and_trylast_respected(register: Register) -> None:
    def caller(*, tryfirst: bool = False, trylast: bool = False) -> Any:
        @hookimpl(tryfirst=tryfirst, trylast=trylast)
        async def startup(self: Any) -> None: ...

        return startup

    registry = register(
        plugin("a", startup=caller(tryfirst=True)),
        plugin("b", startup=caller()),
        plugin("c", startup=caller()),
        plugin("d", startup=caller(trylast=True)),
    )
    assert registry.call_order()["startup"] == ["a", "c", "b", "d"]
    record = registry.get("b")
    assert record is not None
    assert record.stats["startup"].position == 3


def test_a_quarantined_plugin_leaves_the_live_hooks_and_observers_hear_once(register: Register) -> None:
    @hookimpl
    async def startup(self: Any) -> None: ...

    cls = plugin(startup=startup)
    registry = register(cls, optional=(cls,))
    record = registry.get("probe")
    assert record is not None
    heard: list[str] = []
    registry.on_quarantine(lambda failed: heard.append(failed.name))
    registry.fail(record, "startup", RuntimeError("first"))
    registry.fail(record, "jobs", RuntimeError("second"))
    assert registry.live["startup"] == ()
    assert registry.implementation(record, "startup") is not None
    assert heard == ["probe"]
    assert record.last_error == "plugin probe: jobs failed: RuntimeError: second"


def test_a_deprecated_hook_is_warned_about(register: Register, logged: StringIO) -> None:
    contract = ModuleType("contract")
    vars(contract)["edition_name"] = hookspecs.edition_name

    @hookspecs.hook("broadcast", "async", deprecated_in="1.4", removed_in="2.0")
    async def old_news() -> None: ...

    vars(contract)["old_news"] = old_news

    @hookimpl(specname="old_news")
    async def hear(self: Any) -> None: ...

    register(plugin(hear=hear), specs=contract)
    assert "plugin=probe hook=old_news deprecated_in=1.4 removed_in=2.0" in logged.getvalue()
    assert logged.getvalue().count("\n") == 1
