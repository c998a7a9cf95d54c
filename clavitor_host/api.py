"""What plugins may import, besides `clavitor_host.hookspecs`. Everything here is part of the versioned contract."""

from clavitor_host import API_VERSION, log
from clavitor_host.audit.models import AuditEntry, AuditEvent
from clavitor_host.clock import Clock
from clavitor_host.endpoint import Endpoint, Parameter, endpoint
from clavitor_host.errors import (
    CapExceeded,
    ClavitorError,
    ConfigError,
    Problem,
    StartError,
    StorageUnavailable,
    forbidden,
    invalid_field,
    problem,
    unauthorized,
)
from clavitor_host.hookspecs import hookimpl
from clavitor_host.host import Host
from clavitor_host.http import Reply, Request, json_reply, problem_reply, unmatched_reply
from clavitor_host.identity.models import Identity, Resource, Role
from clavitor_host.jobs.models import Job, cron, every, worker
from clavitor_host.metrics import Metrics
from clavitor_host.plugins.models import AdminPage, Alert, CapsChange, Deployment, HealthCheck, Plugin
from clavitor_host.storage.database import Database, PointRead, Row, Transaction
from clavitor_host.storage.leases import Lease
from clavitor_host.storage.migrations import Migrations
from clavitor_host.storage.signals import Signals
from clavitor_host.vault.models import Change
from clavitor_host.web.pages.page import Visit, page

__all__ = [
    "API_VERSION",
    "AdminPage",
    "Alert",
    "AuditEntry",
    "AuditEvent",
    "CapExceeded",
    "CapsChange",
    "Change",
    "ClavitorError",
    "Clock",
    "ConfigError",
    "Database",
    "Deployment",
    "Endpoint",
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
    "Resource",
    "Role",
    "Row",
    "Signals",
    "StartError",
    "StorageUnavailable",
    "Transaction",
    "Visit",
    "cron",
    "endpoint",
    "every",
    "forbidden",
    "hookimpl",
    "invalid_field",
    "json_reply",
    "log",
    "page",
    "problem",
    "problem_reply",
    "unauthorized",
    "unmatched_reply",
    "worker",
]
