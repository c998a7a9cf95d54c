"""Counting requests: plainly as they come, folded into the metrics once a second and before a scrape."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from clavitor_host.metrics import MULTIPROCESS_VARIABLE

if TYPE_CHECKING:
    from clavitor_host.metrics import Metrics

FOLD_AFTER = 1.0
"""Seconds that a count may wait. With several workers none waits: a scrape of another one must see it."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """The request metrics of one app. A metric object costs ten times what is done here for a request."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "clavitor_http_requests_total", "HTTP requests answered.", ("method", "route", "status")
        )
        self._seconds = metrics.histogram(
            "clavitor_http_request_duration_seconds", "Time from a request's head to its reply's end.", ("route",)
        )
        self._counts: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, list[float]] = {}
        self._planned = False
        self._at_once = bool(os.environ.get(MULTIPROCESS_VARIABLE))
        metrics.before_render(self.fold)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. `route`: the URL rule that answered, "" for none."""
        key = (method, route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = []
        times.append(seconds)
        if self._at_once:
            self.fold()
        elif not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_later(FOLD_AFTER, self.fold)

    def fold(self) -> None:
        """Hand over what has been counted."""
        counts, times = self._counts, self._times
        self._counts, self._times, self._planned = {}, {}, False
        for (method, route, status), number in counts.items():
            self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc(number)
        for route, values in times.items():
            self._seconds.labels(route).observe_many(values)
