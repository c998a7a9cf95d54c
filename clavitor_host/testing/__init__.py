"""What plugin authors test with: a running host on a real database, and clients with a role."""

from clavitor_host.testing.harness import Harness, running_app, settings

__all__ = ["Harness", "running_app", "settings"]
