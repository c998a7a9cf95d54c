"""systemd's notification protocol (sd_notify(3)), without its library."""

from __future__ import annotations

import asyncio
import os
import socket
import time

from loguru import logger


def notify(*states: str) -> bool:
    """Send states such as `READY=1` to systemd. Returns False, and does nothing, where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.sendto("\n".join(states).encode(), address)
    except OSError as error:
        logger.bind(component="serve", error=str(error)).warning("systemd could not be notified")
        return False
    return True


def reloading() -> None:
    """Say that a reload has begun; `notify("READY=1")` says that it has ended."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Return how many seconds may pass between two `WATCHDOG=1`, None without a watchdog."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000 / 2


async def watchdog() -> None:
    """Tell systemd for ever that this event loop turns; return at once without a watchdog."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
