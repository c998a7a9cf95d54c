"""The identity provider, as it is reached: discovery document, keys, the exchange of a code (OIDC Discovery 1.0)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_plus, urlsplit

from loguru import logger

from clavitor_host import strict_json
from clavitor_host.errors import Problem
from clavitor_host.identity import oidc_claims
from clavitor_host.identity.oidc_claims import BadIdToken

if TYPE_CHECKING:
    import httpx

    from clavitor_host.config.models import OidcConfig
    from clavitor_host.host import Host

TIMEOUT = 10.0
"""Seconds one request to the provider may take in all."""
MAX_BYTES = 512 * 1024
"""Largest answer that is read."""
KEEP = 3600.0
"""Seconds the discovery document and the keys are kept."""
KEYS_AGAIN_AFTER = 30.0
"""Seconds after which the keys are fetched again because a token names an unknown one."""
FAILED_FOR = 5.0
"""Seconds for which a provider that failed is not asked again, so that logins do not queue up behind it."""


class ProviderDown(Exception):
    """The provider does not answer as it should; the text says how, for the log."""


class CodeRefused(Exception):
    """The provider refuses the code, or our client."""


class Discovery(NamedTuple):
    """What of the discovery document is used."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    secret_in_body: bool


class Provider:
    """One per app. Keeps the discovery document and the keys for a while."""

    def __init__(self, host: Host, config: OidcConfig) -> None:
        self._host = host
        self._config = config
        self._lock = asyncio.Lock()
        self._discovery: tuple[float, Discovery] | None = None
        self._keys: tuple[float, list[Mapping[str, Any]]] | None = None
        self._failed_at = float("-inf")

    async def discovery(self) -> Discovery:
        """Return the provider's endpoints. Raises `ProviderDown`."""
        async with self._lock:
            return await self._discover()

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> str:
        """Return the ID token that a code stands for. Raises `ProviderDown`, `CodeRefused`."""
        found = await self.discovery()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._config.client_id,
            "code_verifier": verifier,
        }
        headers = {"Accept": "application/json"}
        secret = self._config.client_secret
        if secret is not None and found.secret_in_body:
            form["client_secret"] = secret.get_secret_value()
        elif secret is not None:
            pair = f"{quote_plus(self._config.client_id)}:{quote_plus(secret.get_secret_value())}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        status, answer = await self._request("POST", found.token_endpoint, data=form, headers=headers)
        if status in (400, 401, 403):
            logger.bind(status=status, cause=str(answer.get("error"))[:80]).warning(
                "The identity provider refused a code"
            )
            raise CodeRefused
        token = answer.get("id_token") if status == 200 else None
        if not isinstance(token, str):
            raise ProviderDown(f"the token endpoint answered {status} without an ID token")
        return token

    async def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of an ID token that a key of the provider signed. Raises `BadIdToken`, `ProviderDown`."""
        algorithm, key_id = oidc_claims.read_header(token)
        key = oidc_claims.choose_key(await self._signing_keys(0.0), algorithm, key_id)
        if key is None:  # it may have new keys since
            key = oidc_claims.choose_key(await self._signing_keys(KEYS_AGAIN_AFTER), algorithm, key_id)
        if key is None:
            raise BadIdToken("it is signed with an unknown key")
        return oidc_claims.verified_claims(token, key, algorithm)

    async def _discover(self) -> Discovery:
        now = self._host.clock.monotonic()
        if self._discovery is not None and now - self._discovery[0] < KEEP:
            return self._discovery[1]
        issuer = self._config.issuer
        answer = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if answer.get("issuer") != issuer:
            raise ProviderDown("its discovery document names another issuer")
        methods = answer.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        found = Discovery(
            self._endpoint(answer, "authorization_endpoint"),
            self._endpoint(answer, "token_endpoint"),
            self._endpoint(answer, "jwks_uri"),
            isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods,
        )
        self._discovery = (now, found)
        return found

    async def _signing_keys(self, again_after: float) -> list[Mapping[str, Any]]:
        """Return the provider's keys; again_after: seconds after which kept ones are fetched again, 0 for `KEEP`."""
        async with self._lock:
            now = self._host.clock.monotonic()
            if self._keys is None or now - self._keys[0] >= (again_after or KEEP):
                answer = await self._get((await self._discover()).jwks_uri)
                keys = answer.get("keys")
                if not isinstance(keys, list):
                    raise ProviderDown("its key set is malformed")
                self._keys = (now, [key for key in keys if isinstance(key, dict)])
            return self._keys[1]

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str:
        url = document.get(name)
        schemes = ("https",) if urlsplit(self._config.issuer).scheme == "https" else ("https", "http")
        try:
            parts = urlsplit(url) if isinstance(url, str) else None
        except ValueError:
            parts = None
        if not isinstance(url, str) or parts is None or parts.scheme not in schemes or not parts.hostname:
            raise ProviderDown(f"its discovery document has no usable {name}")
        return url

    async def _get(self, url: str) -> Mapping[str, Any]:
        now = self._host.clock.monotonic()
        if now - self._failed_at < FAILED_FOR:
            raise ProviderDown("it failed a moment ago")
        try:
            status, answer = await self._request("GET", url)
            if status != 200:
                raise ProviderDown(f"{urlsplit(url).path} answered {status}")
        except ProviderDown as error:
            self._failed_at = self._host.clock.monotonic()
            logger.bind(cause=str(error)).warning("The identity provider cannot be used")
            raise
        return answer

    async def _request(self, method: str, url: str, **arguments: Any) -> tuple[int, Mapping[str, Any]]:
        import httpx

        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._host.outbound.client() as client,
                client.stream(method, url, follow_redirects=False, **arguments) as response,
            ):
                body = await _bounded(response)
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            raise ProviderDown(f"{type(error).__name__}") from error
        try:
            answer = strict_json.loads(body) if status in (200, 400, 401, 403) else {}
        except strict_json.StrictJSONError:
            if status == 200:
                raise ProviderDown("its answer is not JSON") from None
            answer = {}
        if not isinstance(answer, dict):
            raise ProviderDown("its answer is not a JSON object")
        return status, answer


async def _bounded(response: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_BYTES:
            raise ProviderDown("its answer is too large")
        parts.append(part)
    return b"".join(parts)


def unavailable() -> Problem:
    """Return the 502 of a provider that does not answer as it should."""
    return Problem(502, "oidc_unavailable", "The identity provider does not answer as it should; try again later.")
