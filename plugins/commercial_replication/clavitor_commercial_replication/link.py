"""Requests to the other POP: JSON over one kept connection, with our bearer or certificate."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clavitor_commercial_replication import wire
from clavitor_commercial_replication.models import Answer, Batch
from clavitor_host.api import retry_after, status_phrase

if TYPE_CHECKING:
    import httpx

    from clavitor_commercial_replication.config import ReplicationConfig
    from clavitor_commercial_replication.service import Replication

TIMEOUT = 10.0
"""Seconds without a byte of progress after which the other POP counts as gone."""

TOTAL_TIMEOUT = 60.0
"""Seconds that one request may take altogether."""

KEPT_IDLE = 15.0
"""Seconds for which an idle connection is kept: longer than between heartbeats, shorter than a server keeps it."""

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of an answer that are read."""


class LinkError(Exception):
    """A request that was not done. `reason`: a stable word, for the metric; `detail`: for people; `status`: of the
    answer, 0 when none came; `body`: the answer's problem+json, {} when there is none; `wait`: seconds that it asks to
    wait."""

    def __init__(
        self, reason: str, detail: str, status: int = 0, body: Mapping[str, Any] | None = None, wait: float = 0.0
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.status = status
        self.body = body or {}
        self.wait = wait


class Rejected(LinkError):
    """400, 413, 422: something in the request itself is not acceptable."""


class Unauthorised(LinkError):
    """401: it does not know us. The secrets may differ, or the clocks."""


class Refused(LinkError):
    """403, 404, 409 and the like: it will not, whatever we send. `code` says why."""

    @property
    def code(self) -> str:
        """The stable code of the refusal, "" without one."""
        return str(self.body.get("code", ""))


class Unreachable(LinkError):
    """No answer, or none that means anything: the network, a time-out, 5xx, 429, something else than the other POP."""


class Link:
    """A connection to the POP at `url`. Close it in the end."""

    def __init__(self, service: Replication, url: str) -> None:
        self._service = service
        self._url = url
        self._client: httpx.AsyncClient | None = None
        self._urls: dict[str, httpx.URL] = {}

    async def apply(self, batch: Batch) -> Answer:
        """Send a batch and return what became of it. Raises `LinkError`."""
        content = await self._request("POST", wire.PATH, content=wire.encode(batch))
        try:
            return wire.read_answer(content, batch)
        except ValueError as error:
            raise Unreachable("unreadable", f"The answer is not one of a backup POP: {error}.", 200) from None

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON at a path such as `/api/replication/versions`. Raises `LinkError`."""
        return _json(await self._request("GET", path, params=params))

    async def post(self, path: str, body: Any) -> Any:
        """Post JSON and return the JSON of the answer. Raises `LinkError`."""
        return _json(await self._request("POST", path, content=json.dumps(body, separators=(",", ":")).encode()))

    async def renew(self) -> None:
        """Have the next request made on a new connection, with the certificates as they are then."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    close = renew

    async def _request(self, method: str, path: str, **options: Any) -> bytes:
        """Return the content of a 2xx answer. Raises `LinkError`."""
        import httpx

        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                client = self._opened()
                url = self._urls.get(path) or self._urls.setdefault(path, httpx.URL(self._url + path))
                request = httpx.Request(method, url, headers=self._headers(client), **options)
                answer = await client.send(request, stream=True)
                try:
                    content = await _read(answer)
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise Unreachable("timeout", f"No whole answer came within {TOTAL_TIMEOUT:.0f} seconds.") from None
        except httpx.TimeoutException as error:
            raise Unreachable("timeout", f"No answer came in time ({type(error).__name__}).") from None
        except httpx.HTTPError as error:
            detail = str(error) or type(error).__name__
            raise Unreachable("network", f"The other POP cannot be reached: {detail}.") from None
        except httpx.InvalidURL as error:
            raise Unreachable("address", f"{self._url} is no URL that can be asked: {error}.") from None
        except (OSError, ValueError) as error:  # certificates that cannot be read (ssl.SSLError is an OSError)
            raise Unreachable("certificates", f"The request cannot be made: {error}.") from None
        if not answer.is_success:
            raise self._failure(answer, content)
        return content

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            limits = httpx.Limits(max_connections=8, max_keepalive_connections=4, keepalive_expiry=KEPT_IDLE)
            options: dict[str, Any] = {"timeout": TIMEOUT, "limits": limits}
            if self._service.config.mutual_tls and self._url.startswith("https:"):
                options["verify"] = _tls(self._service.config)
            self._client = self._service.host.outbound.client(**options)
        return self._client

    def _headers(self, client: httpx.AsyncClient) -> dict[str, str]:
        headers = {**client.headers, "content-type": "application/json", "accept-encoding": "identity"}
        if self._service.secrets.known:
            pop = self._service.config.source_pop
            assert pop is not None
            headers["authorization"] = f"Bearer {self._service.secrets.bearer(pop, self._service.host.clock.now_us())}"
        return headers

    def _failure(self, answer: httpx.Response, content: bytes) -> LinkError:
        status = answer.status_code
        body = _problem(content)
        said = str(body.get("detail") or body.get("title") or "")[:200]
        detail = f"The other POP answered {status_phrase(status)}" + (f": {said}" if said else ".")
        detail += _HINTS.get(status, "")
        if status in (400, 413, 422):
            return Rejected("rejected", detail, status, body)
        if status == 401:
            return Unauthorised("unauthorised", detail, status, body)
        if 400 <= status < 500 and status not in (408, 425, 429):
            return Refused("refused", detail, status, body)
        now = self._service.host.clock.now_us() / 1_000_000
        wait = retry_after(answer.headers.get("retry-after", ""), now)
        return Unreachable("overloaded" if status == 429 else "server_error", detail, status, body, wait)


_HINTS = {
    401: " It has another secret than this POP, or a clock is wrong by more than a day.",
    404: " Is backup_url the URL of a POP, and does that run a bundle with replication?",
}
"""What to look for, by the status of a refusal."""


async def _read(answer: httpx.Response) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in answer.aiter_bytes():
        size += len(piece)
        if size > MAX_ANSWER:
            raise Unreachable("unreadable", f"The answer has more than {MAX_ANSWER} bytes.", answer.status_code)
        pieces.append(piece)
    return b"".join(pieces)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Unreachable("unreadable", "The answer is no JSON.", 200) from None


def _problem(content: bytes) -> Mapping[str, Any]:
    """Return the members of a problem+json, {} for anything else."""
    try:
        body = json.loads(content) if len(content) <= 65_536 else None
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _tls(config: ReplicationConfig) -> ssl.SSLContext:
    """Return how both POPs show their certificates. Raises OSError, ValueError for files that are none."""
    assert config.tls_cert is not None
    context = ssl.create_default_context(cafile=config.tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.tls_cert, config.tls_key)
    return context
