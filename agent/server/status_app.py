"""An application that only says how the program is, for those that serve nothing over HTTP."""

from __future__ import annotations

from aiohttp import web

from agent.server.answers import answer
from agent.server.call import Status
from agent.server.metrics import metrics_answer


def make_status_app(status: Status) -> web.Application:
    """`GET /_status` and `GET /_metrics`, as the server of an agent answers them."""
    app = web.Application()

    async def get(_: web.Request) -> web.Response:
        return answer(await status())

    async def metrics(_: web.Request) -> web.Response:
        return metrics_answer(await status())

    app.router.add_get("/_status", get)
    app.router.add_get("/_metrics", metrics)
    return app
