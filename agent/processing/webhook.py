"""Changes as JSON in the body of a POST."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec
from yarl import URL

from agent import __version__
from agent.errors import (
    AuthError,
    ConfigError,
    EdgeAgentError,
    RefusedChangeError,
    RemoteBusyError,
    RemoteError,
)
from agent.peers.http_errors import connection_failures, one_line, retry_after
from agent.processing.change import Change, key_of

_CONNECT_SECONDS = 10.0
_SHOWN = 200
"""Bytes of a refusal's text that are read."""

_LATER = frozenset({408, 425, 429})
_OF_THE_HOOK = frozenset({401, 402, 403, 404, 405, 407, 410, 421, 426})
"""What is about the URL or the log-in, and so the same for every document."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """`timeout` is in seconds; `token` is for `Authorization: Bearer`."""

    url: str
    timeout: float
    together: bool = False
    """Whether changes are sent as an array, a single one, too."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    signing_key: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class Webhook:
    """A URL that changes are posted to. Redirects are not followed: they would take the data, and
    the password, elsewhere."""

    def __init__(self, options: WebhookOptions) -> None:
        """Raises ConfigError."""
        try:
            self._url = URL(options.url)
            origin = self._url.origin()
        except ValueError as error:
            raise ConfigError(f"url: {one_line(error)}; check the host and the port") from None
        self.label = str(origin)
        """Without the path and the query, which are often secret."""
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    async def call(self, changes: Sequence[Change]) -> None:
        """As `Target.call`."""
        body = _encode(changes if self._options.together else changes[0])
        with connection_failures(self.label):
            session = await self._open()
            async with session.post(
                self._url,
                data=body,
                headers=self._headers(body, key_of(changes)),
                allow_redirects=False,
            ) as response:
                if 200 <= response.status < 300:
                    return
                text = await response.content.read(_SHOWN)
                raise self._refusal(response, text.decode(errors="replace"))

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _headers(self, body: bytes, key: str) -> dict[str, str]:
        options = self._options
        headers = {
            "Content-Type": "application/json",
            # draft-ietf-httpapi-idempotency-key-header: a string of RFC 9651, hence the quotes
            "Idempotency-Key": f'"{key}"',
        }
        if options.token is not None:
            headers["Authorization"] = f"Bearer {options.token}"
        elif options.user is not None:
            pair = f"{options.user}:{options.password or ''}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        if options.signing_key is not None:
            # As GitHub signs what it sends, for which there are libraries.
            digest = hmac.new(options.signing_key.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Hub-Signature-256"] = f"sha256={digest}"
        return headers

    def _refusal(self, response: aiohttp.ClientResponse, text: str) -> EdgeAgentError:
        status = response.status
        said = f"{status} {one_line(text)}".strip()
        if status >= 500 or status in _LATER:
            return RemoteBusyError(
                f"{self.label} is busy or out of order ({said}); it is tried again",
                retry_after=retry_after(response.headers),
            )
        if status in (401, 403, 407):
            return AuthError(
                f"{self.label} refuses the log-in ({said}); check the hook's user and password",
                status=status,
            )
        if status < 400:
            return RemoteError(
                f"{self.label} redirects ({status}), which is not followed; write the URL that it "
                "leads to",
                status=status,
            )
        if status in _OF_THE_HOOK:
            return RemoteError(
                f"{self.label} takes nothing at this URL ({said}); check the hook's url",
                status=status,
            )
        return RefusedChangeError(f"{self.label} refuses this ({said})")

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context: ssl.SSLContext | bool = True
            if self.label.startswith("https:"):
                context = await asyncio.to_thread(tls_context, self._options)  # reads many files
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, ssl=context),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"edge-sync-agent/{__version__}"},
                timeout=aiohttp.ClientTimeout(
                    total=self._options.timeout, sock_connect=_CONNECT_SECONDS
                ),
            )
        return self._session


def tls_context(options: WebhookOptions) -> ssl.SSLContext:
    """What a receiver is verified with. Reads files. Raises ConfigError."""
    files = options.ca_file, options.client_certificate, options.client_key
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.client_certificate is not None:
            context.load_cert_chain(options.client_certificate, options.client_key)
    except (OSError, ssl.SSLError) as error:
        shown = ", ".join(filter(None, files))
        raise ConfigError(
            f"a TLS file of the hook ({shown}) cannot be used ({one_line(error)}); give files in "
            "PEM format"
        ) from None
    return context
