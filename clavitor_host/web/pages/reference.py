"""An OpenAPI document taken apart into what `docs.html` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
_METHODS = ("get", "post", "put", "patch", "delete")
MAX_SHOWN = 2**53
"""A larger bound is only that of the type."""
_BOUNDS = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("maxItems", "at most {} items"),
    ("default", "default {}"),
)


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One parameter, or one field of an object."""

    name: str
    type: str
    required: bool
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer an operation may give. `kind`: how its status looks; `schema`: a name of the schemas, or ""."""

    status: str
    kind: str
    text: str
    schema: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    secured: bool
    parameters: list[FieldRow]
    body: list[FieldRow]
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class Group:
    """The operations of one tag."""

    id: str
    title: str
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class Schema:
    """One named object."""

    name: str
    text: str
    fields: list[FieldRow]


_BYTES: Json = {"type": "bytes"}
"""Of a body that no model describes."""


def parts(described: Json) -> dict[str, Any]:
    """Return the groups of operations and the schemas of a document."""
    schemas = described["components"]["schemas"]
    return {
        "groups": _groups(described["paths"], schemas),
        "schemas": [_schema(name, schema, schemas) for name, schema in sorted(schemas.items())],
    }


def _groups(paths: Json, schemas: Json) -> list[Group]:
    groups: dict[str, Group] = {}
    for path, operations in paths.items():
        for method in _METHODS:
            if method in operations:
                found = _operation(path, method, operations[method], schemas)
                tag = operations[method]["tags"][0]
                group = groups.setdefault(tag, Group(f"tag-{tag}", tag.capitalize(), []))
                group.operations.append(found)
    return [groups[tag] for tag in sorted(groups)]


def _operation(path: str, method: str, described: Json, schemas: Json) -> Operation:
    content = described.get("requestBody", {}).get("content", {})
    body = next(iter(content.values())).get("schema", _BYTES) if content else {}
    return Operation(
        id=described["operationId"],
        method=method.upper(),
        path=path,
        summary=described["summary"],
        description=described.get("description", ""),
        secured="security" in described,
        parameters=[
            FieldRow(item["name"], _type(item["schema"]), item["required"], _text(item, item["schema"]))
            for item in described["parameters"]
        ],
        body=_fields(body, schemas),
        answers=[_answer(status, answer) for status, answer in described["responses"].items()],
    )


def _answer(status: str, described: Json) -> Answer:
    content = described.get("content", {})
    schema = next(iter(content.values())).get("schema", {}) if content else {}
    name = _name(schema["$ref"]) if "$ref" in schema else ""
    kind = {"2": "good", "3": "plain"}.get(status[0], "off")
    return Answer(status, kind, described["description"], "" if name == "Problem" else name)


def _schema(name: str, schema: Json, schemas: Json) -> Schema:
    return Schema(name, " ".join(schema.get("description", "").split()), _fields(schema, schemas))


def _fields(schema: Json, schemas: Json) -> list[FieldRow]:
    """Return the fields of an object schema; of another schema, one row that tells its type."""
    if "$ref" in schema:
        schema = schemas[_name(schema["$ref"])]
    if not schema:
        return []
    if "properties" not in schema:
        return [FieldRow(schema.get("title", "value"), _type(schema), False, _text({}, schema))]
    required = schema.get("required", ())
    return [
        FieldRow(name, _type(item), name in required, _text(item, item)) for name, item in schema["properties"].items()
    ]


def _type(schema: Json) -> str:
    """Return the type of a value in words."""
    if "$ref" in schema:
        return _name(schema["$ref"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(item) for item in schema[several]))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")


def _text(item: Json, schema: Json) -> str:
    """Return what is said of a value, and its bounds."""
    said, bounds = item.get("description", ""), list(_bounds(schema))
    return " · ".join([said.rstrip(".") if bounds else said, *bounds]).removeprefix(" · ")


def _bounds(schema: Json) -> Iterator[str]:
    for alternative in [schema, *schema.get("anyOf", ())]:
        for key, form in _BOUNDS:
            value = alternative.get(key)
            if value is not None and not (isinstance(value, int) and value > MAX_SHOWN):
                yield form.format(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]
