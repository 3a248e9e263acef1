"""TLS with the operator's certificate, and where the server listens."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agent.errors import ConfigError, PermanentError
from agent.server.app import make_app
from agent.server.cors import Cors
from agent.server.http import Server, serve
from agent.server.tls import server_context
from agent.store.databases import Databases
from tests.server.accounts import password_of, quick_access
from tests.server.certificates import self_signed

APP = "https://app.example.org"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls(files: tuple[Path, Path]) -> ssl.SSLContext:
    return server_context(*files)


@pytest.fixture
async def server(tmp_path: Path, tls: ssl.SSLContext) -> AsyncIterator[Server]:
    databases = Databases(tmp_path)
    app = make_app(databases, access=quick_access(cors=Cors([APP])))
    server = await serve(app, "127.0.0.1", 0, has_users=True, tls=tls)
    yield server
    await server.close()
    await databases.close()


async def test_a_request_and_a_cookie_over_tls(server: Server, files: tuple[Path, Path]) -> None:
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+", server.url)
    trusting = ssl.create_default_context(cafile=files[0])
    form = {"name": "anna", "password": password_of("anna")}
    async with aiohttp.ClientSession() as session:
        login = session.post(f"{server.url}/_session", json=form, ssl=trusting)
        async with login as answer:
            assert answer.status == 200
            cookie = answer.headers["Set-Cookie"]
        # The pages that are named in the configuration get the cookie back.
        assert {"Secure", "HttpOnly", "SameSite=None"} <= set(cookie.split("; "))
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(server.url)


async def test_old_versions_are_refused(server: Server, files: tuple[Path, Path]) -> None:
    def connect(newest: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=files[0])
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = newest
        plain = socket.create_connection(("127.0.0.1", server.port), 5)
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            return wrapped.version()

    assert await asyncio.to_thread(connect, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(connect, ssl.TLSVersion.TLSv1_1)


def test_files_that_cannot_be_used(tmp_path: Path, files: tuple[Path, Path]) -> None:
    certificate, key = files
    other = self_signed(tmp_path, "other")[1]
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkcs8", "-topk8", "-v2", "aes128", "-passout", "pass:hunter2"]
    subprocess.run([*command, "-in", key, "-out", locked], check=True, capture_output=True)
    for one, two, part in (
        (tmp_path / "none.pem", key, "tls_certificate .*none.pem cannot be read"),
        (certificate, tmp_path / "none.key", "tls_key .*none.key cannot be read"),
        (tmp_path, key, "cannot be read"),
        (junk, key, "cannot be used"),
        (certificate, junk, "cannot be used"),
        (certificate, other, "key values mismatch"),
        (key, certificate, "cannot be used"),
        (certificate, locked, "locked.key is encrypted"),
    ):
        with pytest.raises(ConfigError, match=part) as caught:
            server_context(one, two)
        assert "\n" not in str(caught.value)


async def test_elsewhere_only_with_users_and_audibly_without_tls(
    tmp_path: Path, tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    def app() -> web.Application:
        return make_app(Databases(tmp_path), access=quick_access())

    with pytest.raises(PermanentError, match="until a user is configured, because"):
        await serve(app(), "0.0.0.0", 0, tls=tls)
    await (await serve(app(), "0.0.0.0", 0, has_users=True, tls=tls)).close()
    await (await serve(app(), "127.0.0.1", 0, has_users=True)).close()
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        await (await serve(app(), "0.0.0.0", 0, has_users=True)).close()
    assert "without TLS; set server.tls_certificate" in caplog.text
