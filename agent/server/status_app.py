"""An application that only says how the program is, for those that serve nothing over HTTP."""

from __future__ import annotations

from aiohttp import web

from agent.errors import EdgeAgentError
from agent.server import pages
from agent.server.answers import answer, error_answer
from agent.server.call import Status


def make_status_app(status: Status) -> web.Application:
    """`GET /_status`, as the server of an agent answers it to administrators, and the dashboard."""
    app = web.Application()

    async def get(_: web.Request) -> web.Response:
        return answer(await status())

    async def page(request: web.Request) -> web.Response:
        try:
            return await pages.dashboard(request)
        except EdgeAgentError as error:
            return error_answer(error)

    app.router.add_get("/_status", get)
    app.router.add_get(f"/{pages.PATH}{{path:(/.*)?}}", page)
    return app
