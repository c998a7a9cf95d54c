"""What plugins may import, besides `clavitor_host.hookspecs`. Everything here is part of the versioned contract."""

from clavitor_host import API_VERSION, log, terminal
from clavitor_host.audit.models import AuditEntry, AuditEvent
from clavitor_host.clock import Clock
from clavitor_host.config.values import ResolvedBy
from clavitor_host.endpoint import Endpoint, Parameter, endpoint, parse_body
from clavitor_host.errors import (
    BlockedAddress,
    CapExceeded,
    ClavitorError,
    ConfigError,
    Problem,
    StartError,
    StorageUnavailable,
    Unresolvable,
    UnusableURL,
    forbidden,
    invalid_field,
    problem,
    unauthorized,
)
from clavitor_host.hookspecs import hookimpl
from clavitor_host.host import Host
from clavitor_host.http import Reply, Request, json_reply, problem_reply, unmatched_reply
from clavitor_host.identity.agent_tokens import add_agent_token, revoke_tokens, valid_tokens
from clavitor_host.identity.caller import caller, created
from clavitor_host.identity.grants import TokenGrant, token_grants
from clavitor_host.identity.ids import new_id
from clavitor_host.identity.models import Identity, Resource, Role, Scope, Token
from clavitor_host.identity.names import clean_name, name_key
from clavitor_host.identity.tokens import add_token
from clavitor_host.jobs.models import Job, cron, every, worker
from clavitor_host.metrics import Metrics
from clavitor_host.outbound.answers import retry_after, status_phrase
from clavitor_host.plugins.models import AdminPage, Alert, CapsChange, Deployment, HealthCheck, Plugin
from clavitor_host.storage.database import Database, PointRead, Row, Transaction
from clavitor_host.storage.errors import UniqueViolation
from clavitor_host.storage.leases import Lease
from clavitor_host.storage.migrations import Migrations
from clavitor_host.storage.signals import Signals
from clavitor_host.vault.models import Change, EntryChange, EntryChanges, EntryCopy, VaultHead, Write, WriteSet
from clavitor_host.vault.tables import entries
from clavitor_host.vault.validation import encrypted_data as check_encrypted_data
from clavitor_host.vault.validation import entry_id as check_entry_id
from clavitor_host.vault.view import VaultView
from clavitor_host.web.pages.page import Visit, page

__all__ = [
    "API_VERSION",
    "AdminPage",
    "Alert",
    "AuditEntry",
    "AuditEvent",
    "BlockedAddress",
    "CapExceeded",
    "CapsChange",
    "Change",
    "ClavitorError",
    "Clock",
    "ConfigError",
    "Database",
    "Deployment",
    "Endpoint",
    "EntryChange",
    "EntryChanges",
    "EntryCopy",
    "HealthCheck",
    "Host",
    "Identity",
    "Job",
    "Lease",
    "Metrics",
    "Migrations",
    "Parameter",
    "Plugin",
    "PointRead",
    "Problem",
    "Reply",
    "Request",
    "ResolvedBy",
    "Resource",
    "Role",
    "Row",
    "Scope",
    "Signals",
    "StartError",
    "StorageUnavailable",
    "Token",
    "TokenGrant",
    "Transaction",
    "UniqueViolation",
    "Unresolvable",
    "UnusableURL",
    "VaultHead",
    "VaultView",
    "Visit",
    "Write",
    "WriteSet",
    "add_agent_token",
    "add_token",
    "caller",
    "check_encrypted_data",
    "check_entry_id",
    "clean_name",
    "created",
    "cron",
    "endpoint",
    "entries",
    "every",
    "forbidden",
    "hookimpl",
    "invalid_field",
    "json_reply",
    "log",
    "name_key",
    "new_id",
    "page",
    "parse_body",
    "problem",
    "problem_reply",
    "retry_after",
    "revoke_tokens",
    "status_phrase",
    "terminal",
    "token_grants",
    "unauthorized",
    "unmatched_reply",
    "valid_tokens",
    "worker",
]
