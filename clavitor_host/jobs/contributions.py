"""The jobs that plugins contribute, on the runner; those of a quarantined plugin stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_host.jobs.models import Job
from clavitor_host.plugins.checks import Refused
from clavitor_host.plugins.contributions import collect

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.jobs.runner import JobRunner
    from clavitor_host.plugins.dispatch import Hooks


def add_plugin_jobs(runner: JobRunner, hooks: Hooks, host: Host) -> None:
    """Add the jobs of every plugin. A wrong job is its plugin's failure."""
    hooks.registry.on_quarantine(lambda record: runner.remove(record.name))
    for record, job in collect(hooks, "jobs", Job, host=host):
        if record.quarantined:
            continue
        try:
            runner.add(record.name, job, record)
        except ValueError as error:
            hooks.registry.fail(record, "jobs", Refused(str(error)))
