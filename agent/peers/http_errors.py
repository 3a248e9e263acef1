"""What goes wrong over HTTP, as one clear line: what, where, what to do."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec

from agent.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    ConnectError,
    EdgeAgentError,
    NotCouchDBError,
    RemoteBusyError,
    RemoteError,
    RemoteMissingError,
    TlsError,
    TooLargeError,
)

NO_DATABASE = frozenset({"Database does not exist.", "no_db_file"})
"""The reasons by which a 404 is about the database and not about what was asked of it."""

_LONGEST_WAIT = 86_400.0
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 511, 520, 521, 522, 523, 524})
_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class ErrorBody(msgspec.Struct):
    """CouchDB's answer to a request it refuses."""

    error: str = ""
    reason: str | None = None


def error_body(body: bytes) -> ErrorBody | None:
    """CouchDB's error, or None where the body is not JSON of that kind."""
    try:
        return msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def one_line(text: object) -> str:
    """`text` on one line, without control characters, cut at 200 characters."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
    return line if len(line) <= 200 else line[:199] + "…"


def refusal(
    where: str, request: str, status: int, headers: Mapping[str, str], body: bytes, user: str | None
) -> EdgeAgentError:
    """The error for an HTTP answer that is not what was hoped for.

    `where` is the database's URL, `request` names the request for people; neither holds a secret.
    """
    told = error_body(body)
    said = f"{status}"
    if told is not None and told.error:
        said += f" {one_line(told.error)}" + (f": {one_line(told.reason)}" if told.reason else "")
    if status == 401 and user is None:
        return AuthError(f"{where} wants a log-in ({said}); give a user and a password", status=401)
    if status == 401:
        return AuthError(
            f"{where} refused user {user!r} ({said}); check the user and the password", status=401
        )
    if status == 403:
        return AuthError(
            f"{where} forbids {request} ({said}); give "
            + (f"user {user!r} access to this database" if user else "a user with access to it"),
            status=403,
        )
    if status in _BUSY:
        return RemoteBusyError(
            f"{where} is busy or out of order ({said}); try again later",
            retry_after=retry_after(headers),
        )
    if status == 413:
        return TooLargeError(f"{where} refused {request} as too large ({said}); send less at once")
    if 300 <= status < 400:
        target = re.sub(r"//[^/]*@", "//", headers.get("Location", "")).partition("?")[0]
        return NotCouchDBError(
            f"{where} redirects to {one_line(target)!r} ({said}); use that URL if it is the "
            "database's, or log in to the network if this is its log-in page",
            status=status,
        )
    if told is None or not told.error:
        return not_couchdb(where, status, headers)
    if status == 404:
        return RemoteMissingError(
            f"{where} does not exist ({said}); check the URL or create the database", status=404
        )
    if status == 409:
        return ConflictError(f"{where} refused {request} ({said}); read it again first")
    return RemoteError(f"{where} refused {request} ({said})", status=status)


def not_couchdb(where: str, status: int, headers: Mapping[str, str]) -> NotCouchDBError:
    kind = one_line(headers.get("Content-Type", "something").partition(";")[0])
    return NotCouchDBError(
        f"{where} answered {status} with {kind} that is not CouchDB's JSON; check the URL, or log "
        "in to the network if this is its log-in page",
        status=status,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait in seconds of a Retry-After header (RFC 9110, 10.2.3), at most a day.

    A date is taken relative to the server's own Date: a gateway's clock may be far off.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_WAIT)
    until = _date(text)
    if until is None:
        return None
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), _LONGEST_WAIT)


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def connection_failures(where: str) -> Iterator[None]:
    """Raise what aiohttp raises as ConnectError, TlsError, NotCouchDBError or ConfigError.

    The causes are cut off: some of aiohttp's errors carry the request's headers.
    """
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise _untrusted(where, error.certificate_error) from None
    except aiohttp.ClientSSLError as error:
        raise TlsError(
            f"{where}: no TLS connection ({_ssl_reason(error)}); check that this port speaks https"
        ) from None
    except aiohttp.ClientConnectorDNSError as error:
        raise ConnectError(
            f"{where}: the host name cannot be resolved ({_os_reason(error)}); check the name and "
            "the network"
        ) from None
    except aiohttp.ClientConnectorError as error:
        raise ConnectError(
            f"{where} cannot be reached ({_os_reason(error)}); check that the server runs, the "
            "address, the port and the network"
        ) from None
    except UnicodeError:  # the only text that is encoded on the way is the host's name, by IDNA
        raise ConfigError(f"{where}: there can be no host of that name; check the URL") from None
    except TimeoutError:  # aiohttp's time-outs are TimeoutErrors, too
        raise ConnectError(f"{where} does not answer; check the server and the network") from None
    except aiohttp.ClientResponseError as error:
        raise NotCouchDBError(
            f"{where} does not speak HTTP ({one_line(error.message)}); check scheme and port",
            status=error.status,
        ) from None
    except (aiohttp.ClientError, ConnectionError) as error:
        raise ConnectError(
            f"the connection to {where} broke ({one_line(error) or type(error).__name__}); "
            "try again"
        ) from None


def _untrusted(where: str, error: Exception) -> TlsError:
    code = getattr(error, "verify_code", 0)
    reason = one_line(getattr(error, "verify_message", "") or error)
    todo = (
        "give ca_file, or a command --ca-file, if the server has a certificate of your own "
        "authority"
    )
    if code in (_NOT_YET_VALID, _EXPIRED):
        todo = "check this device's clock, then the certificate's dates"
    return TlsError(f"{where}: the certificate does not verify ({reason}); {todo}")


def _os_reason(error: aiohttp.ClientConnectorError) -> str:
    cause = error.os_error
    # Resolvers have numbers of their own, below zero.
    known = os.strerror(cause.errno) if cause.errno and cause.errno > 0 else None
    return one_line(known or cause.strerror or cause)


def _ssl_reason(error: aiohttp.ClientError) -> str:
    cause = getattr(error, "os_error", None)
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return one_line(cause.reason)
    return one_line(error)
