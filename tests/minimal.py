"""The plugins of the minimal bundle: the host and the community edition, without caps."""

from __future__ import annotations

from dataclasses import replace

from clavitor_host.plugins.frozen import BundleInfo, frozen_set


def minimal_set() -> BundleInfo:
    """No other plugin takes part in what the host's tests see."""
    stock = frozen_set()
    return replace(stock, plugins=tuple(one for one in stock.plugins if one.distribution == "clavitor-community"))
