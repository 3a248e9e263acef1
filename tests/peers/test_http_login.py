"""Logging in to CouchDB: sessions that end, servers without them, portals, refusals."""

from __future__ import annotations

import asyncio
import base64

import pytest
from aiohttp import web

from agent.errors import (
    AuthError,
    NotCouchDBError,
)
from agent.peers.urls import AuthMode
from tests.peers.stand_ins import HTML, Serve, answering
from tests.rig.clock import Clock


class Sessions:
    """Cookie authentication as CouchDB's, with a way to end all sessions."""

    def __init__(self, *, offered: int = 200, max_age: int | None = None) -> None:
        self.offered = offered
        self.max_age = max_age
        self.logins = 0
        self.valid = ""
        self.headers: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/_session":
            self.logins += 1
            form = await request.post()
            assert (form["name"], form["password"]) == ("anna", "p&w=ü")
            if self.offered != 200:
                return web.json_response({"error": "no"}, status=self.offered)
            self.valid = f"c00kie{self.logins}"
            response = web.json_response({"ok": True})
            response.set_cookie("AuthSession", self.valid, max_age=self.max_age)
            return response
        basic = "Basic " + base64.b64encode("anna:p&w=ü".encode()).decode()
        self.headers.append("basic" if "Authorization" in request.headers else "cookie")
        cookie = request.cookies.get("AuthSession")
        if cookie != self.valid and request.headers.get("Authorization") != basic:
            return web.json_response({"error": "unauthorized"}, status=401)
        return web.json_response({})


async def test_a_session_that_ends_is_opened_again(serve: Serve) -> None:
    sessions = Sessions()
    peer = await serve(sessions.answer, user="anna", password="p&w=ü")
    await asyncio.gather(*[peer.revs_diff({"x": ["1-a"]}) for _ in range(5)])
    assert sessions.logins == 1
    sessions.valid = "another"
    await asyncio.gather(*[peer.revs_diff({"x": ["1-a"]}) for _ in range(5)])
    assert sessions.logins == 2
    assert set(sessions.headers) == {"cookie"}


async def test_a_session_is_renewed_before_it_ends(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("agent.peers.http_login.time", clock)
    sessions = Sessions(max_age=100)
    peer = await serve(sessions.answer, user="anna", password="p&w=ü")
    await peer.revs_diff({"x": ["1-a"]})
    await peer.revs_diff({"x": ["1-a"]})
    assert sessions.logins == 1
    clock.now += 95
    await peer.revs_diff({"x": ["1-a"]})
    assert sessions.logins == 2


@pytest.mark.parametrize("offered", [404, 405])
async def test_without_sessions_it_is_basic(serve: Serve, offered: int) -> None:
    sessions = Sessions(offered=offered)
    peer = await serve(sessions.answer, user="anna", password="p&w=ü")
    await peer.revs_diff({"x": ["1-a"]})
    await peer.revs_diff({"x": ["1-a"]})
    assert (sessions.logins, sessions.headers) == (1, ["basic", "basic"])

    peer = await serve(sessions.answer, user="anna", password="p&w=ü", auth="cookie")
    with pytest.raises(AuthError, match=r"offers no sessions \(40[45]\); use auth = 'basic'"):
        await peer.revs_diff({"x": ["1-a"]})


@pytest.mark.parametrize("auth", ["auto", "cookie"])
async def test_a_portal_is_no_log_in(serve: Serve, auth: AuthMode) -> None:
    sessions = Sessions()
    portal = True

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=HTML) if portal else await sessions.answer(request)

    peer = await serve(handler, user="anna", password="p&w=ü", auth=auth)
    with pytest.raises(NotCouchDBError):
        await peer.revs_diff({"x": ["1-a"]})
    portal = False
    await peer.revs_diff({"x": ["1-a"]})
    assert sessions.headers == ["cookie"]


@pytest.mark.parametrize("auth", ["auto", "cookie", "basic"])
async def test_a_refused_log_in_is_not_repeated(serve: Serve, auth: AuthMode) -> None:
    count = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.json_response({"error": "unauthorized", "reason": "Wrong."}, status=401)

    peer = await serve(handler, user="anna", password="pw", auth=auth)
    with pytest.raises(AuthError, match=r"user 'anna' \(401 unauthorized: Wrong\.\)"):
        await peer.info()
    assert count == 1


async def test_a_password_is_not_sent_on_to_where_a_redirect_points(serve: Serve) -> None:
    reached = []

    async def other(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.json_response({})

    target = await serve(other)
    peer = await serve(
        answering(status=307, headers={"Location": target.label}), user="a", password="b"
    )
    with pytest.raises(NotCouchDBError, match="redirects to"):
        await peer.info()
    assert reached == []
