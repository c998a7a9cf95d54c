"""The plugin contract, version 1.0, and nothing else.

A plugin is a subclass of `clavitor_host.api.Plugin` whose methods marked `@hookimpl` implement hooks of this
file. An implementation may leave out arguments it does not need; it may not add any, and its colour (sync or
async) must be the spec's. Both are checked when the plugin is registered.

The kind of a hook fixes how it is called, and what an error does:

single owner
    Exactly one plugin of a bundle implements it; none or two stop the start with an error naming them.
first answer
    Called in turn until one returns something other than None. An error skips to the next and is reported.
broadcast
    Every implementation is called. An error or time-out never reaches the caller or the others.
policy
    A security decision: any exception is a refusal, whatever its type (fail closed).
contribution
    Returns what the plugin adds. Called at start unless the docstring says "per call".
lifecycle
    Called once, in load order (shutdown: reverse order). An error quarantines an optional plugin and
    stops the start of a required one.
in transaction
    Runs inside a write's transaction; an error aborts that write. Do everything through `tx`: it may be
    called again for the same change when the transaction had to be repeated.

The life of a plugin: 1. registered (names, arguments, colours, API range are checked) → 2. configured
(`config_model` is filled from the configuration) → 3. contributions are collected and validated →
4. `startup` → active, or quarantined → 5. `shutdown`, also when a later plugin failed in step 4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import pluggy

if TYPE_CHECKING:
    import typer
    from pydantic import BaseModel
    from quart import Blueprint

    from clavitor_host.api import (
        AdminPage,
        Alert,
        AuditEvent,
        CapsChange,
        Change,
        Deployment,
        HealthCheck,
        Host,
        Identity,
        Job,
        Metrics,
        Migrations,
        Reply,
        Request,
        Resource,
        Transaction,
    )

PROJECT = "clavitor"

Kind = Literal["single owner", "first answer", "broadcast", "policy", "contribution", "lifecycle", "in transaction"]
Colour = Literal["sync", "async"]

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's method as the implementation of the hook of the same name."""

_hookspec = pluggy.HookspecMarker(PROJECT)
_F = TypeVar("_F", bound=Callable[..., Any])


class Contract(NamedTuple):
    """What the host fixes about one hook; read it with `contract_of`."""

    kind: Kind
    colour: Colour
    since: str
    timeout: float
    """Seconds one implementation may take (async hooks)."""
    deprecated_in: str | None = None
    removed_in: str | None = None


def hook(
    kind: Kind,
    colour: Colour,
    *,
    since: str = "1.0",
    timeout: float = 5.0,
    deprecated_in: str | None = None,
    removed_in: str | None = None,
) -> Callable[[_F], _F]:
    """Mark a function of this file as a hook spec."""

    def mark(function: _F) -> _F:
        contract = Contract(kind, colour, since, timeout, deprecated_in, removed_in)
        function.__dict__["clavitor_contract"] = contract
        return _hookspec(function)

    return mark


def contract_of(spec: Callable[..., Any]) -> Contract:
    """Return the contract of a hook spec function."""
    contract = spec.__dict__["clavitor_contract"]
    assert isinstance(contract, Contract)
    return contract


# --- the edition (editions.md section 1) ---------------------------------------------------------------------


@hook("single owner", "sync")
def edition_name() -> Literal["community", "commercial"]:
    """Return the name of the edition. Called once, at start; it must equal the bundle's `edition`."""
    raise AssertionError


@hook("broadcast", "async", timeout=10.0)
async def alert_operator(host: Host, alert: Alert) -> None:
    """Tell the operator about something that needs a person.

    The host has already logged the alert when this is called, so nothing is lost if it fails.
    """


@hook("first answer", "sync")
def is_telemetry_enabled(host: Host) -> bool | None:
    """Return True when this plugin sends data to a central server. Combined: any True wins; none is False.

    An error counts as no answer and is reported.
    """
    raise AssertionError


@hook("first answer", "async", timeout=60.0)
async def not_found_handler(host: Host, request: Request) -> Reply | None:
    """Answer a request that no route matches (404), or whose method no route takes (405: `request.allowed`).

    Never called for a 404 that a handler answers itself. `request.identity` is set when the caller presented
    a valid token or session. None leaves the answer to the next plugin.
    """
    raise AssertionError


# --- life (editions.md section 2) ----------------------------------------------------------------------------


@hook("contribution", "sync")
def config_model() -> type[BaseModel]:
    """Return the pydantic model of the plugin's table `[plugins.<name>]` and `CLAVITOR_<NAME>_*` variables.

    Every field needs a default or the plugin fails to configure when the table is absent. Further variable
    names are declared per field with `json_schema_extra={"env": "CLAVITOR_…"}`. Unknown keys are a start-up
    error. The filled model is `host.plugin_config("<name>")`; `host.plugin_configured("<name>")` tells
    whether the table or one of its variables was given at all. A model may have a method `check_files()` that raises
    `ConfigError` for a file it names that is of no use: `clavitor config check` calls it.
    """
    raise AssertionError


@hook("lifecycle", "async", timeout=30.0)
async def startup(host: Host) -> None:
    """Prepare to serve: the database is open and migrated, no request is served yet.

    Runs in every server process of a deployment.
    """


@hook("lifecycle", "async", timeout=10.0)
async def shutdown(host: Host) -> None:
    """Let go of everything. Called after the last request, in reverse load order, for every plugin whose
    `startup` was called (also when it failed). An error is reported and the others still run.
    """


# --- contributions -------------------------------------------------------------------------------------------


@hook("contribution", "sync")
def blueprints(host: Host) -> Sequence[Blueprint]:
    """Return Quart blueprints with the plugin's routes.

    Write handlers with `clavitor_host.api.endpoint`: it authenticates, authorises, parses strictly and
    documents them. A route that another plugin or the host has already is a start-up error naming both.
    """
    raise AssertionError


@hook("contribution", "sync")
def migrations() -> Migrations:
    """Return the plugin's schema history: its revision folder and the names of its tables.

    A table name that another plugin or the host owns is a start-up error naming both.
    """
    raise AssertionError


@hook("contribution", "sync")
def commands() -> Sequence[typer.Typer]:
    """Return subcommands of `clavitor`. Called only when the command line needs them.

    They write and ask with `clavitor_host.api.terminal`, as the host's own do.
    """
    raise AssertionError


@hook("contribution", "sync")
def jobs(host: Host) -> Sequence[Job]:
    """Return background work: `every`, `cron` or `worker` of `clavitor_host.api`.

    An exclusive job runs in one process of a deployment, by a lease in the database.
    """
    raise AssertionError


@hook("contribution", "sync")
def metrics(registry: Metrics) -> None:
    """Create the plugin's metrics on `registry`. Names must start with `clavitor_`; a clash is an error."""


@hook("contribution", "sync")
def admin_pages(host: Host) -> Sequence[AdminPage]:
    """Return entries of the admin navigation: title, path, icon. Paths are served by the plugin's blueprints."""
    raise AssertionError


@hook("contribution", "sync")
def health_checks(host: Host) -> Sequence[HealthCheck]:
    """Return named checks for `/readyz` and `clavitor doctor`. Each says in one sentence what is wrong, or None."""
    raise AssertionError


# --- the vault -----------------------------------------------------------------------------------------------


@hook("in transaction", "async")
async def entry_changing(host: Host, tx: Transaction, change: Change) -> None:
    """Take part in an entry's write, in its transaction: an outbox row, a dirty flag, a veto.

    Raise a `Problem` to refuse the write with that answer; any other error is a 500 and aborts it too.
    `tx.defer` collects rows that are written in one statement for all writes that share the commit.
    """


@hook("broadcast", "async")
async def entry_changed(host: Host, change: Change) -> None:
    """Hear of an entry's write after its commit. Not called for writes of other processes."""


@hook("broadcast", "async")
async def audit_recorded(host: Host, event: AuditEvent) -> None:
    """Hear of an audit row after its commit. Not called for rows of other processes."""


# --- who may do what -----------------------------------------------------------------------------------------


@hook("policy", "async")
async def admit(host: Host, request: Request, action: str | None) -> None:
    """Refuse a request because of the state that this server is in, by raising; or prepare its reply.

    Called for every request that a route takes, before the roles are asked. `request.identity` is who asks, None on
    routes that need no credential. action: what the route needs (see `authorize`); None where it needs no credential,
    or is no `endpoint` of the host's. What is put in `request.reply_headers` goes out with the reply, also with a
    refusal. A `Problem` is sent as it is; any other error or a time-out becomes a 403.
    """


@hook("policy", "async")
async def authorize(host: Host, identity: Identity, action: str, resource: Resource) -> None:
    """Refuse an action by raising; the host's own rules have already allowed it.

    action: such as `entries.write`, `users.read`. resource: what it is done to.
    A `Problem` is sent as it is; any other error or a time-out becomes a 403.
    """


@hook("first answer", "async")
async def authenticate(host: Host, request: Request) -> Identity | None:
    """Return who makes a request whose credentials the host does not know itself.

    Asked for bearer tokens not issued by the host, and for requests without any. An error is a refusal: 401.
    """
    raise AssertionError


# --- caps (licensing.md section 3) ---------------------------------------------------------------------------


@hook("policy", "async", timeout=90.0)
async def assert_within_cap(host: Host, tx: Transaction, limit: str, delta: int, requested_by: str) -> None:
    """Raise `CapExceeded` when `delta` more of `limit` would pass its cap.

    Called inside the creating transaction, before its first statement, so that an implementation can take the
    serialising lock (`tx.lock`) and count; whoever waits for it too long gets the database's own 503.
    limit: such as `max_users`. requested_by: the audit actor. For a limit on a value (`max_*_retention_days`,
    `max_jar_retention_count`) `delta` is the value that is asked for, and the refusal a 422; call it only when
    the value grows. A delta of 0 or less always passes. A limit that the implementation does not know is a 500
    `unknown_limit`.
    """


@hook("contribution", "async")
async def cap_usage(host: Host, tx: Transaction, limits: Collection[str]) -> Mapping[str, int]:
    """Return `{limit: current}` of what this plugin counts. Called per call, in the transaction that asks: only read
    there, since it may be a snapshot.

    limits: the limits asked for; others may be left out. Of a limit on a value it is the highest value configured.
    """
    raise AssertionError


@hook("contribution", "async")
async def cap_values(host: Host, tx: Transaction) -> Mapping[str, Mapping[str, int]]:
    """Return `{limit: {environment: value}}` of what is configured for each limit on a value that this plugin has
    (`max_*_retention_days`, `max_jar_retention_count`). Called per call, in the transaction that asks.

    environment: its name, as people know it. value: as it was set, also when the cap in force is lower.
    """
    raise AssertionError


@hook("first answer", "async")
async def effective_cap(host: Host, limit: str) -> int | None:
    """Return the cap in force for a limit. No answer: there is no cap."""
    raise AssertionError


@hook("broadcast", "async")
async def caps_changed(host: Host, change: CapsChange) -> None:
    """Hear that caps may have changed: a licence was installed or removed, or its state changed."""


# --- the rest ------------------------------------------------------------------------------------------------


@hook("contribution", "async")
async def status_report(host: Host) -> Mapping[str, Any]:
    """Return a small JSON object for `clavitor status`, telemetry and the dashboard. Called per call."""
    raise AssertionError


@hook("first answer", "async", timeout=60.0)
async def deployment_runtime(host: Host, deployment: Deployment) -> Mapping[str, Any] | None:
    """Start, scale or stop the real workload of a deployment.

    Returns facts to keep with the deployment. No answer: agents are started by the user's own orchestrator.
    """
    raise AssertionError


AsyncCallable = Callable[..., Awaitable[Any]]
