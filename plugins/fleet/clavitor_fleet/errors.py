"""The refusals that the features share, each with a stable code."""

from __future__ import annotations

from collections.abc import Mapping

from clavitor_host.api import Problem, problem


def not_found(kind: str) -> Problem:
    """Return the 404 for a thing that does not exist. kind: one word, such as `app`."""
    return problem(404, f"{kind}_not_found", f"There is no such {kind.replace('_', ' ')}.")


def unknown_reference(field: str, kind: str) -> Problem:
    """Return the 422 for a member of the body that names something that does not exist."""
    return problem(422, "unknown_reference", f"{field}: there is no such {kind.replace('_', ' ')}.", field=field)


def invalid_value(field: str, expected: str) -> Problem:
    """Return the 422 for a value that is of the right type and still cannot be."""
    return problem(422, "invalid_value", f"{field}: expected {expected}.", field=field)


def taken(kind: str, what: str = "name") -> Problem:
    """Return the 409 for a name that another thing of its kind has."""
    article = "an" if kind[0] in "aeiou" else "a"
    words = kind.replace("_", " ")
    return problem(409, f"{kind}_exists", f"There is {article} {words} with this {what} already.", field=what)


def in_use(kind: str, used_by: Mapping[str, int]) -> Problem:
    """Return the 409 for deleting what others use. used_by: how many of what, such as `{"apps": 2}`."""
    named = {what: count for what, count in used_by.items() if count}
    users = ", ".join(
        f"{count} {what.replace('_', ' ') if count != 1 else _one(what)}" for what, count in named.items()
    )
    return problem(409, f"{kind}_in_use", f"This {kind.replace('_', ' ')} is in use by {users}.", used_by=named)


def _one(what: str) -> str:
    """Return the singular of `apps`, `entries`, …"""
    words = what.replace("_", " ")
    return f"{words[:-3]}y" if words.endswith("ies") else words.removesuffix("s")
