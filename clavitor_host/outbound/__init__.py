"""Outbound HTTP. Every client of the program is made here, so a simulation can replace the network, and a test
can prove that there is none.

`tls`: which servers are believed. `addresses`: which addresses a URL that a user configured may lead to. `guard`:
those URLs, looked up and checked. `transport`: dials what has been checked. `clients`: `host.outbound`.
"""

from clavitor_host.outbound.clients import TIMEOUT, Outbound
from clavitor_host.outbound.tls import tls_context

__all__ = ["TIMEOUT", "Outbound", "tls_context"]
