"""Our own server: whether it can listen, and its certificate."""

from __future__ import annotations

import contextlib
import errno
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path

from agent.config import ServerConfig, parse_listen
from agent.doctor.finding import Finding, Level
from agent.doctor.network import own_certificate
from agent.errors import EdgeAgentError
from agent.parts import tls_for

_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""


def listen(server: ServerConfig) -> Sequence[Finding]:
    """Whether an agent that does not run could listen. Blocks."""
    host, port = parse_listen(server.listen)
    subject = server.listen

    def found(text: str, mend: str) -> Sequence[Finding]:
        return [Finding("listen", subject, Level.ERROR, text, mend)]

    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
    except socket.gaierror as error:
        return found(f"the name {host} cannot be resolved ({error.strerror})", "ip address")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return found(*_taken(port))
        if error.errno == errno.EADDRNOTAVAIL:
            return found(f"this machine has no address {host}", "ip address")
        if error.errno == errno.EACCES:
            text = f"only root may listen on port {port}; take one from 1024 on"
            return found(text, f'listen = "{host}:5984"')
        return found(f"cannot listen ({error.strerror})", "ip address")
    return [Finding("listen", subject, Level.OK, "the agent does not run; the port is free")]


def certificate(server: ServerConfig) -> Sequence[Finding]:
    """Of our own server. Blocks."""
    try:
        context = tls_for(server)
    except EdgeAgentError as error:
        mend = f"openssl x509 -noout -text -in {shlex.quote(str(server.tls_certificate))}"
        return [Finding("certificate", "server", Level.ERROR, str(error), mend)]
    if context is None or server.tls_certificate is None:
        return []
    return [own_certificate(context, server.tls_certificate)]


def _taken(port: int) -> tuple[str, str]:
    for process, name in listeners(port).items():
        return (
            f"the port is in use by {name} (process {process})",
            f"sudo kill {process}, or another port: listen",
        )
    return "the port is in use by another program", f"sudo ss -ltnp 'sport = :{port}'"


def listeners(port: int) -> dict[int, str]:
    """The processes that listen on a TCP port, and their programs; those of others are seen by
    root only. Source: proc_pid_net(5)."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if any(str(link.readlink()) in sockets for link in (process / "fd").iterdir()):
                name = (process / "comm").read_text("utf-8", "replace").strip()
                found[int(process.name)] = name
    return found
