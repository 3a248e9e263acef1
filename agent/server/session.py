"""Logging in and out.

Source: CouchDB documentation, "API Reference > Server > Authentication", and couch_httpd_auth.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from agent.errors import RequestError
from agent.server.access import BAD_LOGIN
from agent.server.answers import answer
from agent.server.call import Call
from agent.server.users import user_of

HANDLERS = ("cookie", "default")

# Whoever asks is nobody yet: nothing that takes time or memory is done for them.
_LONGEST_FORM = 16 * 1024  # bytes, after decompression
_MOST_FIELDS = 16


async def get(call: Call) -> web.Response:
    """GET /_session: who is logged in, and how. 401 for nobody with `basic=true`."""
    user = user_of(call.request)
    if user.name is None and call.flag("basic"):
        raise RequestError(401, "unauthorized", "Please login.")
    info: dict[str, Any] = {"authentication_handlers": HANDLERS}
    if user.handler is not None:
        info["authenticated"] = user.handler
    context = {"name": user.name, "roles": sorted(user.roles)}
    return answer({"ok": True, "userCtx": context, "info": info})


async def login(call: Call) -> web.Response:
    """POST /_session: `name` and `password`, as JSON or as a form. 401 if they are wrong."""
    access = call.service.access
    name, password = _credentials(await _form(call))
    user = await access.log_in(name, password, call.request)
    if user is None:
        refused = {"error": "unauthorized", "reason": BAD_LOGIN}
        response = _redirected(call, "fail", answer(refused, status=401))
        access.set_cookie(call.request, response, "")
        return response
    entered = {"ok": True, "name": name, "roles": sorted(user.roles)}
    response = _redirected(call, "next", answer(entered))
    access.set_cookie(call.request, response, access.sessions.issue(name))
    return response


async def logout(call: Call) -> web.Response:
    """DELETE /_session: takes the cookie back."""
    response = _redirected(call, "next", answer({"ok": True}))
    call.service.access.set_cookie(call.request, response, "")
    return response


async def _form(call: Call) -> dict[str, Any]:
    kind = call.request.content_type
    if kind == "application/x-www-form-urlencoded":
        text = (await call.form(_LONGEST_FORM)).decode(errors="replace")
        try:
            return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        except ValueError:
            raise RequestError(400, "bad_request", "request body has too many fields") from None
    if kind == "application/json":
        return await call.json(dict[str, Any], limit=_LONGEST_FORM)
    return {}


def _credentials(form: dict[str, Any]) -> tuple[str, str]:
    name, other, password = (form.get(key) for key in ("name", "username", "password"))
    if name is None and other is None:
        raise RequestError(400, "bad_request", "request body must contain a username")
    if name is not None and other is not None and name != other:
        raise RequestError(400, "bad_request", "request body contains different usernames")
    name = other if name is None else name
    password = "" if password is None else password
    if not isinstance(name, str) or not isinstance(password, str):
        raise RequestError(400, "bad_request", "name and password must be strings")
    return name, password


def _redirected(call: Call, parameter: str, response: web.Response) -> web.Response:
    """The answer as a redirection to the path in a query parameter, if there is one."""
    path = call.request.query.get(parameter)
    if path is None:
        return response
    # On this server only: a link to the log-in must not lead elsewhere afterwards.
    if not path.startswith("/") or path.startswith(("//", "/\\")) or not path.isprintable():
        raise RequestError(400, "bad_request", f"{parameter} must be a path on this server")
    response.set_status(302)
    response.headers["Location"] = path
    return response
