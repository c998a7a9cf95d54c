"""Letting go of a connection: its socket goes to somebody else, and nothing here remembers it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypercorn.events import Event
from loguru import logger


@dataclass(slots=True, eq=False)
class HandOver(Event):
    """The protocol's wish to give its connection to `receiver` once `data` is sent.

    `data` is sent in any case; `done` says whether `receiver` has the socket. If not, the connection goes on.
    """

    data: bytes
    receiver: Callable[[socket.socket], None]
    done: bool = False


def send_and_release(transport: Any, event: HandOver) -> bytes:
    """Send `event.data`, close the transport, and give a duplicate of its socket away; the TCP connection goes on.

    transport: of a plain connection, with nothing waiting to be sent, and nothing read that matters. Closing it closes
    its own descriptor and no more: no FIN is sent while the duplicate lives. Returns what is left of the data when the
    socket did not take it all at once, or could not be duplicated; the transport is as it was then.
    """
    try:
        sock = _duplicate(transport)
    except OSError:  # no free descriptor
        return event.data
    try:
        sent = sock.send(event.data) if event.data else 0
    except OSError:  # full, or broken, which the transport will find out
        sent = 0
    if sent < len(event.data):
        sock.close()
        return event.data[sent:]
    transport.close()
    event.done = True
    try:
        event.receiver(sock)
    except Exception as error:  # noqa: BLE001 - the server outlives it
        logger.bind(component="serve").opt(exception=error).error("A connection could not be handed over")
        sock.close()
    return b""


def _duplicate(transport: Any) -> socket.socket:
    fd = os.dup(transport.get_extra_info("socket").fileno())
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
    sock.setblocking(False)
    return sock
