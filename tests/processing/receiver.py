"""A webhook's receiver: a real HTTP server that keeps what it is sent, and answers as told."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.rig.network import find_free_port


@dataclass(frozen=True)
class Call:
    """A request, and what it was answered."""

    headers: Mapping[str, str]
    body: bytes
    status: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ids(self) -> list[str]:
        """The documents in it."""
        told = self.json
        return [change["id"] for change in (told if isinstance(told, list) else [told])]


class Receiver:
    """`answer` is asked for the status, from a request's JSON; it may return headers as well."""

    def __init__(self) -> None:
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}/hook?token=hidden"
        self.calls: list[Call] = []
        self.answer: Callable[[Any], int | tuple[int, dict[str, str]]] = lambda _: 204
        self._runner: web.AppRunner | None = None

    @property
    def taken(self) -> list[str]:
        """The documents that were taken, in order."""
        return [id for call in self.calls if call.status < 300 for id in call.ids]

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer = self.answer(json.loads(body))
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        self.calls.append(Call(request.headers.copy(), body, status))
        return web.Response(status=status, headers=headers, text="no" if status >= 400 else None)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that runs."""
    receiver = Receiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
