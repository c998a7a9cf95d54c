"""The OpenAPI 3.1 document, made from the routes themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from quart import Quart

from clavitor_host.endpoint import Endpoint, Parameter, endpoint_of

if TYPE_CHECKING:
    from clavitor_host.host import Host

_PATH_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_REF = "#/components/schemas/{model}"

PATH_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
"""Ids in paths: an entry's, and every id that the server makes."""

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details; `code` is a stable word.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
    },
}


def document(app: Quart, host: Host) -> dict[str, Any]:
    """Return the document of every route made with `@endpoint`, the plugins' included."""
    found = sorted(
        (
            (rule.rule, method, operation)
            for rule in app.url_map.iter_rules()
            if (operation := endpoint_of(app.view_functions[rule.endpoint])) is not None and operation.tag != "page"
            for method in rule.methods or ()
            if method not in ("HEAD", "OPTIONS")
        ),
        key=lambda item: (item[0], item[1]),
    )
    refs, schemas = _schemas([operation for _, _, operation in found])
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, operation in found:
        path = _PATH_PARAMETER.sub(r"{\1}", rule)
        paths.setdefault(path, {})[method.lower()] = _operation(rule, operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Clavitor Vault",
            "version": host.version,
            "description": "A vault that keeps what clients encrypted. Every error is problem+json with a stable code.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM, **schemas},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "clv_<kind>_<random>"}},
        },
    }


_Refs = Mapping[Any, Mapping[str, Any]]


def _schemas(operations: list[Endpoint]) -> tuple[_Refs, dict[str, Any]]:
    models: list[type[BaseModel]] = []
    for operation in operations:
        models.extend(
            model for model in (operation.body, operation.accepts, operation.reply) if model and model not in models
        )
    refs, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    return {model: ref for (model, _), ref in refs.items()}, definitions.get("$defs", {})


def _operation(rule: str, operation: Endpoint, refs: _Refs) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": f"{operation.tag or 'plugin'}.{operation.handler.__name__}",
        "summary": operation.summary,
        "tags": [operation.tag or "plugin"],
        "parameters": [
            *(_path_parameter(name) for name in _PATH_PARAMETER.findall(rule)),
            *(_parameter(parameter) for parameter in operation.parameters),
        ],
        "responses": _responses(rule, operation, refs),
    }
    if operation.handler.__doc__:
        result["description"] = inspect.cleandoc(operation.handler.__doc__)
    body = operation.body or operation.accepts
    if body is not None:
        text = {"schema": {"type": "string"}}
        content = {
            name: {"schema": refs[body]} if name == "application/json" else text for name in operation.accepts_types
        }
        result["requestBody"] = {"required": True, "content": content}
    elif operation.max_body is not None:
        result["requestBody"] = {"required": True, "content": {"*/*": {}}}
    if operation.action is not None:
        result["security"] = [{"bearer": []}]
    return result


def _path_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": PATH_PATTERN}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.type}
    for name in ("minimum", "maximum", "pattern"):
        value = getattr(parameter, name)
        if value is not None:
            schema[name] = value
    if parameter.enum:
        schema["enum"] = list(parameter.enum)
    return {
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.required,
        "description": parameter.description,
        "schema": schema,
    }


def _responses(rule: str, operation: Endpoint, refs: _Refs) -> dict[str, Any]:
    success: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase}
    if operation.status not in (204, 302):
        schema = refs[operation.reply] if operation.reply else {}
        success["content"] = {name.partition(";")[0]: {"schema": schema} for name in operation.content_types}
    responses = {str(operation.status): success}
    for status, description in operation.statuses.items():
        responses[str(status)] = {"description": description}
        if status not in (204, 302, 303, 304):
            responses[str(status)]["content"] = dict(success.get("content", {}))
    errors = set(operation.errors) | {503}
    if operation.action is not None:
        errors |= {401, 403}
    if operation.body or operation.accepts:
        errors |= {400, 408, 413, 415}
    elif operation.max_body is not None:
        errors |= {400, 408, 413}
    if operation.parameters or "<" in rule:
        errors |= {400, 404}
    for status in sorted(errors):
        if str(status) not in responses:
            responses[str(status)] = _problem(status)
    return dict(sorted(responses.items()))


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
