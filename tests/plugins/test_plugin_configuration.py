"""Step 2 of a plugin's life: its model is filled from its table (editions.md section 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from clavitor_host.errors import ConfigError, PluginError
from clavitor_host.hookspecs import hookimpl
from clavitor_host.plugins.configure import config_models, configure
from clavitor_host.plugins.models import Plugin
from clavitor_host.plugins.registry import PluginRegistry

Register = Callable[..., PluginRegistry]


class Limits(BaseModel):
    size: int = 1


class Settings(BaseModel):
    target: str = "nowhere"
    retries: int = 3
    limits: Limits = Limits()


def with_model(model: Any) -> type[Plugin]:
    class Probe(Plugin):
        name = "probe"
        version = "1"

        @hookimpl
        def config_model(self) -> Any:
            return model() if not isinstance(model, type) else model

    return Probe


def test_a_table_fills_the_model(register: Register) -> None:
    registry = register(with_model(Settings))
    assert config_models(registry) == {"probe": Settings}
    configure(registry, {"probe": {"target": "there", "retries": "5"}})
    assert registry.config("probe") == Settings(target="there", retries=5)
    assert registry.configured("probe")
    assert [record.state for record in registry.records] == ["configured", "configured"]


@pytest.mark.parametrize("tables", [{}, {"probe": None}])
def test_without_a_table_the_defaults_hold_and_it_is_not_configured(register: Register, tables: Any) -> None:
    registry = register(with_model(Settings))
    configure(registry, tables)
    assert registry.config("probe") == Settings()
    assert not registry.configured("probe")


def test_an_empty_table_counts_as_given(register: Register) -> None:
    registry = register(with_model(Settings))
    configure(registry, {"probe": {}})
    assert registry.configured("probe")


def test_an_unknown_key_is_an_error_with_the_nearest_right_one(register: Register) -> None:
    registry = register(with_model(Settings))
    with pytest.raises(ConfigError, match=r'^plugins\.probe\.targte: no such key; did you mean "target"\?$'):
        configure(registry, {"probe": {"targte": "x"}})


def test_an_unknown_key_of_an_inner_table_is_an_error_too(register: Register) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.probe\.limits\.sise: no such key"):
        configure(register(with_model(Settings)), {"probe": {"limits": {"sise": 2}}})


def test_a_wrong_value_names_its_key_and_place_and_never_shows_the_value(register: Register) -> None:
    with pytest.raises(ConfigError) as wrong:
        configure(
            register(with_model(Settings)),
            {"probe": {"retries": "hunter2"}},
            {"plugins.probe.retries": "CLAVITOR_PROBE_RETRIES"},
        )
    message = str(wrong.value)
    assert message.startswith("plugins.probe.retries: expected a valid integer (CLAVITOR_PROBE_RETRIES)")
    assert "hunter2" not in message
    assert "\n" not in message


def test_a_table_of_an_unknown_plugin_suggests_the_nearest(register: Register) -> None:
    registry = register(with_model(Settings))
    with pytest.raises(ConfigError, match=r'plugins\.prob: this build has no such plugin; did you mean "probe"\?'):
        configure(registry, {"prob": {}})
    configure(registry, {"prob": None})


def test_a_table_of_a_plugin_without_configuration_is_an_error(register: Register) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.edition: this plugin has nothing to configure"):
        configure(register(), {"edition": {}})


def test_what_the_operator_wrote_wrong_stops_the_start_for_an_optional_plugin_too(register: Register) -> None:
    probe = with_model(Settings)
    with pytest.raises(ConfigError):
        configure(register(probe, optional=(probe,)), {"probe": {"retries": "many"}})


class Needs(BaseModel):
    target: str


def test_a_model_that_cannot_do_without_a_table_is_the_plugins_failure(register: Register) -> None:
    probe = with_model(Needs)
    with pytest.raises(PluginError, match=r"plugin probe: configuration failed: plugins\.probe\.target: must be given"):
        configure(register(probe), {})
    registry = register(probe, optional=(probe,))
    configure(registry, {})
    record = registry.get("probe")
    assert record is not None
    assert record.quarantined


def fails() -> Any:
    raise RuntimeError("no model")


def text() -> Any:
    return "a string"


class Raising(BaseModel):
    target: str = "x"

    @field_validator("target")
    @classmethod
    def _check(cls, value: str) -> str:
        raise RuntimeError("broken validator")


@pytest.mark.parametrize(
    ("model", "table", "cause"),
    [
        (fails, None, "RuntimeError: no model"),
        (text, None, "config_model did not return a pydantic model class"),
        (Raising, {"target": "y"}, "RuntimeError: broken validator"),
    ],
)
def test_a_broken_model_is_the_plugins_failure(register: Register, model: Any, table: Any, cause: str) -> None:
    probe = with_model(model)
    with pytest.raises(PluginError, match=cause):
        configure(register(probe), {"probe": table})
    registry = register(probe, optional=(probe,))
    configure(registry, {"probe": table})
    record = registry.get("probe")
    assert record is not None
    assert record.quarantined
    assert cause in str(record.last_error)
