"""The keys of a pydantic model, flattened: what sources, messages and the reference page work from."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from clavitor_host.config.values import RelativeTo, ResolvedBy

KeyPath = tuple[str, ...]
"""Where a key is in `clavitor.toml`, such as `("tls", "cert")`."""


class Key(NamedTuple):
    """One configuration key.

    `env`: its variable names, the usual one first. `file`: it is a secret that may also be given as the name of a
    file, by `<key>_file`.
    """

    path: KeyPath
    env: tuple[str, ...]
    info: FieldInfo
    annotation: Any
    file: bool = False

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    @property
    def secret(self) -> bool:
        return self.annotation is SecretStr

    @property
    def flag(self) -> str:
        return "--" + "-".join(self.path).replace("_", "-")


def keys_of(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[Key]:
    """Yield every key of `model`, sub-tables included. `prefix`: the table it is in, such as `("plugins", "x")`."""
    names = set(model.model_fields)
    for name, info in model.model_fields.items():
        path = (*prefix, info.alias or name)
        annotation = bare(info.annotation)
        if is_table(annotation):
            yield from keys_of(annotation, path)
            continue
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        declared = extra.get("env", ())
        further = (declared,) if isinstance(declared, str) else tuple(str(name) for name in typing.cast(Any, declared))
        file = annotation is SecretStr and f"{name}_file" not in names
        yield Key(path, (env_name(path), *further), info, annotation, file)


def tables_of(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, type[BaseModel]]]:
    """Yield every sub-table of `model` with its path, `model` itself first."""
    yield prefix, model
    for name, info in model.model_fields.items():
        annotation = bare(info.annotation)
        if is_table(annotation):
            yield from tables_of(annotation, (*prefix, info.alias or name))


def env_name(path: KeyPath) -> str:
    """Return the variable of a key: `("tls", "cert")` is `CLAVITOR_TLS_CERT`; `plugins` is left out."""
    words = path[1:] if path[0] == "plugins" else path
    return "CLAVITOR_" + "_".join(words).upper().replace("-", "_").replace(".", "_")


def bare(annotation: Any) -> Any:
    """Return a type without `None` and `Annotated` around it."""
    if typing.get_origin(annotation) is typing.Annotated:
        return bare(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(rest) == 1:
            return bare(rest[0])
    return annotation


def is_table(annotation: Any) -> bool:
    """Tell whether a (bare) type is a table of further keys."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def path_prefix(key: Key) -> str | None:
    """Return "" when the value is a file name, a prefix such as `unix:` when it may name one after it, else None."""
    if key.annotation is Path:
        return ""
    return next((mark.prefix for mark in key.info.metadata if isinstance(mark, RelativeTo)), None)


def file_names(key: Key) -> ResolvedBy | None:
    """Return how the files that the value names are found, None when it is no text with file names in it."""
    return next((mark for mark in key.info.metadata if isinstance(mark, ResolvedBy)), None)


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean X?` for the nearest known word, or nothing when none is near.

    `prefix` is shown before the word found, and takes no part in the comparison.
    """
    import difflib  # only needed once something is wrong

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{found[0]}?" if found else ""
