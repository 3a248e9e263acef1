"""Names and certificates of other machines, and of our own server."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import shlex
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from agent.config_hooks import HookConfig
from agent.doctor.finding import Finding, Level, failed
from agent.peers.http_errors import one_line
from agent.peers.mqtt_tls import TlsFiles

_DAY = 86_400.0
_SOON = 21.0
"""Days before a certificate ends in which that is told."""

_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID


async def name(subject: str, host: str) -> Finding:
    """Whether a host's name is known."""
    with contextlib.suppress(ValueError):
        return Finding("dns", subject, Level.OK, f"{ipaddress.ip_address(host)} is an address")
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        text = f"the name {host} cannot be resolved ({reason})"
        mend = f"cat /etc/resolv.conf; getent hosts {shlex.quote(host)}"
        return Finding("dns", subject, Level.ERROR, text, mend)
    addresses = ", ".join(dict.fromkeys(str(address[4][0]) for address in found))
    return Finding("dns", subject, Level.OK, f"{host} is {one_line(addresses)}")


async def certificate(subject: str, host: str, port: int, tls: TlsFiles) -> Sequence[Finding]:
    """Whether a server's certificate verifies, and for how long. Nothing where it is not reached,
    which is told by whoever speaks with it. Raises ConfigError."""
    context = await asyncio.to_thread(tls.context)
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        return [_refused(subject, host, port, error)]
    except ssl.SSLError as error:
        text = f"{host}:{port} does not speak TLS ({one_line(error.reason or error)})"
        return [Finding("tls", subject, Level.ERROR, text, shown(host, port))]
    except OSError:
        return []
    try:
        told = writer.get_extra_info("peercert")
        return [_days(subject, told["notAfter"], shown(host, port))]
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def webhook(hook: HookConfig, url: str) -> Sequence[Finding]:
    """Whether the receiver of a hook is known, reached, and can be trusted; nothing is sent."""
    parts = urlsplit(url)
    encrypted = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if encrypted else 80)
    findings = [await name(hook.label, host)]
    if not failed(findings):
        findings.append(await _reached(hook.label, host, port))
    if encrypted and not failed(findings):
        tls = TlsFiles(hook.ca_file, hook.client_certificate, hook.client_key)
        findings += await certificate(hook.label, host, port, tls)
    return findings


async def _reached(subject: str, host: str, port: int) -> Finding:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        text = f"{host}:{port} cannot be reached ({one_line(error.strerror or error)})"
        return Finding("server", subject, Level.ERROR, text, f"nc -vz {shlex.quote(host)} {port}")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Finding("server", subject, Level.OK, f"{host}:{port} can be reached")


def own_certificate(context: ssl.SSLContext, file: str) -> Finding:
    """For how long the certificate is valid that our server shows. Blocks for a moment."""
    client = ssl.create_default_context(cafile=file)
    client.check_hostname = False
    # It is known itself, whoever has signed it.
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = context.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server)
    command = f"openssl x509 -noout -dates -in {shlex.quote(file)}"
    try:
        for side in (here, there, here, there, here):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        text = f"{file}: {error.verify_message}"
        return Finding("certificate", "server", Level.ERROR, text, command)
    told = here.getpeercert()
    assert told is not None  # noqa: S101 - it was verified
    return _days("server", str(told["notAfter"]), command, "certificate")


def _days(subject: str, end: str, shown: str, check: str = "tls") -> Finding:
    left = (ssl.cert_time_to_seconds(end) - time.time()) / _DAY
    text = f"the certificate is valid for {left:.0f} more days, until {end}"
    if left < _SOON:
        return Finding(check, subject, Level.WARNING, f"{text}; it has to be renewed", shown)
    return Finding(check, subject, Level.OK, text)


def _refused(subject: str, host: str, port: int, error: ssl.SSLCertVerificationError) -> Finding:
    text = f"the certificate does not verify ({error.verify_message})"
    mend = 'ca_file = "FILE.pem", if it is of an authority of your own'
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        text += "; it has to be renewed there, unless this clock is wrong"
        mend = f"date; {shown(host, port)}"
    elif "mismatch" in error.verify_message.lower() or "doesn't match" in str(error):
        mend = f"url = with the name in it; {shown(host, port)}"
    return Finding("tls", subject, Level.ERROR, text, mend)


def shown(host: str, port: int) -> str:
    """A command that shows the certificate of a server."""
    address = f"[{host}]" if ":" in host else host
    return (
        f"openssl s_client -connect {address}:{port} -servername {host} </dev/null | "
        "openssl x509 -noout -subject -issuer -dates"
    )
