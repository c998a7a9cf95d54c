"""What plugin authors test with: a running host on a real database, and clients with a role."""

from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.plugins.models import FrozenPlugin
from clavitor_host.testing.harness import Harness, running, running_app, settings

__all__ = ["FrozenPlugin", "Harness", "frozen_set", "running", "running_app", "settings"]
