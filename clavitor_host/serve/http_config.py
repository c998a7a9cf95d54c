"""What Hypercorn's protocols read from their configuration, made from our settings."""

from __future__ import annotations

from time import time
from typing import Any
from wsgiref.handlers import format_date_time

from hypercorn.config import Config
from loguru import logger

from clavitor_host.serve.settings import ServeSettings


class HttpConfig(Config):
    """Hypercorn's configuration without a `server` header, with the date formatted once a second."""

    def __init__(self, settings: ServeSettings) -> None:
        self.include_server_header = False
        self.h11_max_incomplete_size = settings.max_header_size
        self.h2_max_concurrent_streams = settings.h2_max_concurrent_streams
        self.h2_max_header_list_size = settings.max_header_size
        self.keep_alive_max_requests = settings.keep_alive_max_requests
        self.read_timeout = None
        self._log = LoguruLog()  # type: ignore[assignment]
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._line = b""

    def date_line(self) -> bytes:
        """Return the same as a line of an HTTP/1 head."""
        self.response_headers("h11")
        return self._line

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """Return the headers added to every response."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._line = b"date: %s\r\n" % format_date_time(second).encode("ascii")
            self._headers = [(b"date", format_date_time(second).encode("ascii"))]
        return self._headers


class LoguruLog:
    """The part of `hypercorn.logging.Logger` that the protocols call."""

    async def access(self, scope: Any, response: Any, seconds: float) -> None:
        """Do nothing: requests are logged by the application, with their request id."""

    async def exception(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log the exception being handled."""
        logger.bind(component="serve").exception(message)

    async def warning(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log a warning."""
        logger.bind(component="serve").warning(message)
