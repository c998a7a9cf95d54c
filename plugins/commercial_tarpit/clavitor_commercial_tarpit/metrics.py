"""What the tarpit counts."""

from __future__ import annotations

from clavitor_host.api import Metrics


class TarpitMetrics:
    """Four metrics; with several workers a scrape of any of them answers for all."""

    def __init__(self, registry: Metrics) -> None:
        self.held = registry.gauge("clavitor_tarpit_held", "Callers that are held now.")
        self.served = registry.counter("clavitor_tarpit_served_total", "Callers that were held, those of now included.")
        self.refused = registry.counter(
            "clavitor_tarpit_refused_total", "Callers that got the plain answer because every seat was taken."
        )
        self.wasted = registry.counter(
            "clavitor_tarpit_wasted_seconds_total", "Seconds that callers were held, counted when they are let go."
        )
