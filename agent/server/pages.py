"""The dashboard at `/_utils/`: files that are built beforehand, under a strict security policy.

What runs there has a log-in, so the browser is told to run nothing else: no script but the files
themselves, no request but to this server (W3C, "Content Security Policy Level 3").
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from aiohttp import web

from agent import __version__
from agent.errors import NotFoundError, RequestError
from agent.server.answers import BASIC_HEADERS, accepts_encoding, has_already

PATH = "_utils"

BUILT = Path(__file__).parent / "dashboard" / "dist"
"""Where the build puts its files; a wheel has them, a checkout once they are built."""

_INDEX = "index.html"
_KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HASHED = "assets"
"""The folder of files whose names change with their contents."""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_SAFETY = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_UNBUILT = f"""\
<!doctype html>
<html lang="en">
<title>Edge agent</title>
<h1>The dashboard is not built</h1>
<p>This is edge-sync-agent {__version__}, from a checkout in which the dashboard's files are
missing. There, run <code>scripts/dashboard</code>, which installs Node.js if there is none, and
<code>pip install .</code> again if it was installed from there; then load this page again.
Everything else works without it.</p>
"""


class _File(NamedTuple):
    content: bytes
    packed: bool
    tag: str


async def dashboard(request: web.Request) -> web.Response:
    """GET /_utils/ and the files below it. Raises NotFoundError, RequestError (405)."""
    if request.method not in ("GET", "HEAD"):
        raise RequestError(405, "method_not_allowed", "Only GET,HEAD allowed", allow="GET, HEAD")
    if request.path == f"/{PATH}":
        return web.Response(status=301, headers={**BASIC_HEADERS, "Location": f"/{PATH}/"})
    name = request.path.removeprefix(f"/{PATH}/") or _INDEX
    packed = accepts_encoding(request, "gzip")
    file = await asyncio.to_thread(_read, name, packed=packed)
    if file is None and name == _INDEX:
        return _answer(request, _INDEX, _File(_UNBUILT.encode(), False, '"unbuilt"'))
    if file is None:
        raise NotFoundError(f"{name}: no such file", reason="missing")
    return _answer(request, name, file)


def _answer(request: web.Request, name: str, file: _File) -> web.Response:
    kind = _KINDS.get(PurePosixPath(name).suffix, "text/plain")
    lasting = name.startswith(f"{_HASHED}/")
    headers = {
        **BASIC_HEADERS,
        **_SAFETY,
        "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache",
        "ETag": file.tag,
        "Vary": "Accept-Encoding",
    }
    if has_already(request, file.tag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = f"{kind}; charset=utf-8"
    if file.packed:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=file.content, headers=headers)


def _read(name: str, *, packed: bool) -> _File | None:
    """A file of the build, as gzip if that is wanted and there; None if there is none. Blocks.

    Nothing is kept: browsers keep what they got, and the system the files that are asked for.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") or "\0" in part for part in parts):
        return None
    path = BUILT.joinpath(*parts)
    if packed:
        try:
            content = path.with_name(path.name + ".gz").read_bytes()
        except OSError:
            packed = False
    if not packed:
        try:
            content = path.read_bytes()
        except OSError:
            return None
    return _File(content, packed, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
