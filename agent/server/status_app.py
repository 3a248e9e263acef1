"""An application that only says how the program is, for those that serve nothing over HTTP."""

from __future__ import annotations

from aiohttp import web

from agent.errors import EdgeAgentError
from agent.server import pages
from agent.server.answers import answer, error_answer
from agent.server.metrics import metrics_answer
from agent.server.service import Status


def make_status_app(status: Status) -> web.Application:
    """`GET /_status`, `GET /_metrics` and the dashboard, as the server of an agent has them."""
    app = web.Application()

    async def get(_: web.Request) -> web.Response:
        return answer(await status())

    async def page(request: web.Request) -> web.Response:
        try:
            return await pages.dashboard(request)
        except EdgeAgentError as error:
            return error_answer(error)

    async def metrics(_: web.Request) -> web.Response:
        return metrics_answer(await status())

    app.router.add_get("/_status", get)
    app.router.add_get("/_metrics", metrics)
    app.router.add_get(f"/{pages.PATH}{{path:(/.*)?}}", page)
    return app
