"""Step 2 of a plugin's life: its configuration model is filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clavitor_host.config.messages import one_line
from clavitor_host.errors import ConfigError
from clavitor_host.plugins.checks import Refused, suggestion

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from clavitor_host.plugins.records import PluginRecord
    from clavitor_host.plugins.registry import PluginRegistry


def config_models(registry: PluginRegistry) -> dict[str, type[BaseModel]]:
    """Return the configuration model of every plugin that declares one, by plugin name.

    What a broken `config_model` does is decided by `configure`: here that plugin is left out.
    """
    return {record.name: model for record, model in _models(registry).items()}


def configure(
    registry: PluginRegistry,
    tables: Mapping[str, Mapping[str, Any] | None],
    origins: Mapping[str, str] | None = None,
) -> None:
    """Fill every plugin's model from its table (None or absent: not given) and mark it configured.

    origins: where a key was set, by dotted path, for the message. Raises `ConfigError` naming the key. What
    the operator wrote is always an error; only when nothing was written is it the plugin's own failure.
    """
    for name, table in tables.items():
        if table is not None and registry.get(name) is None:
            known = {record.name: record for record in registry.records}
            raise ConfigError(f"plugins.{name}: this build has no such plugin{suggestion(name, known)}")
    models = _models(registry)
    for record in registry.records:
        table = tables.get(record.name)
        record.configured = table is not None
        if record.quarantined:
            continue
        model = models.get(record)
        if model is not None:
            _fill(registry, record, model, table, origins or {})
        elif table is not None:
            raise ConfigError(f"plugins.{record.name}: this plugin has nothing to configure")
        if not record.quarantined:
            record.state = "configured"


def _models(registry: PluginRegistry) -> dict[PluginRecord, type[BaseModel]]:
    if not registry.live["config_model"]:
        return {}
    from pydantic import BaseModel

    found: dict[PluginRecord, type[BaseModel]] = {}
    for implementation in registry.live["config_model"]:
        try:
            model = implementation.function()
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                raise Refused("config_model did not return a pydantic model class")
            found[implementation.record] = model
        except Exception as error:  # noqa: BLE001 - whatever a plugin's code raises
            registry.fail(implementation.record, "config_model", error)
    return found


def _fill(
    registry: PluginRegistry,
    record: PluginRecord,
    model: type[BaseModel],
    table: Mapping[str, Any] | None,
    origins: Mapping[str, str],
) -> None:
    from pydantic import ValidationError

    try:
        record.config = model.model_validate(dict(table or {}), extra="forbid")
    except ValidationError as error:
        message = one_line(error, ("plugins", record.name), origins) + _suggest(error, model)
        if table is None:
            registry.fail(record, "configuration", Refused(message))
        else:
            raise ConfigError(message) from None
    except Exception as error:  # noqa: BLE001 - a validator of the plugin's own
        registry.fail(record, "configuration", error)


def _suggest(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] != "extra_forbidden" or len(first["loc"]) != 1:
        return ""
    return suggestion(str(first["loc"][0]), model.model_fields)
