"""An application that only says how the program is, for those that serve nothing over HTTP."""

from __future__ import annotations

from aiohttp import web

from agent.server.answers import answer
from agent.server.call import Status


def make_status_app(status: Status) -> web.Application:
    """`GET /_status`, as the server of an agent answers it to administrators."""
    app = web.Application()

    async def get(_: web.Request) -> web.Response:
        return answer(await status())

    app.router.add_get("/_status", get)
    return app
