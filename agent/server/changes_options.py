"""What a request to `_changes` asks for.

Source: CouchDB documentation, "API Reference > Databases > Changes > /{db}/_changes"; the refusals
are worded as CouchDB's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from agent.documents.selector import Selector, SelectorError, parse_selector
from agent.errors import NotFoundError, RequestError
from agent.server.attached import Show
from agent.server.call import DatabaseCall, decode
from agent.server.edits import JsonObject
from agent.store import sequences
from agent.store.selecting import as_json
from agent.store.stored import StoredDocument

_DEFAULT_WAIT = 60_000
_LONGEST_WAIT = 24 * 3600 * 1000
_NO_LIMIT = 10**18
_FEEDS = ("normal", "longpoll", "continuous", "eventsource")


class Filter(msgspec.Struct, frozen=True):
    """Which documents a feed has. `reads_bodies`: `accepts` looks into `document.body`. `slow`: it
    may take long, and is called in a thread.

    `ids`, where it is not None, are the only documents that `accepts` could accept. `accepts` is
    about the winner; a `selector` looks at each leaf by itself where the feed tells of all of them.
    """

    accepts: Callable[[StoredDocument], bool]
    reads_bodies: bool = False
    slow: bool = False
    ids: frozenset[str] | None = None
    selector: Selector | None = None


class Options(msgspec.Struct, frozen=True):
    """`heartbeat` and `timeout` are in seconds; with a heartbeat there is no timeout.

    `seq_interval`: only every so many rows have their sequence.
    """

    feed: str
    since: int
    limit: int
    descending: bool
    all_leaves: bool
    include_docs: bool
    conflicts: bool
    show: Show
    seq_interval: int
    heartbeat: float | None
    timeout: float
    filter: Filter | None


async def options_of(call: DatabaseCall, body: JsonObject) -> Options:
    """The options of a request; `body` is that of a POST. Raises RequestError, NotFoundError."""
    query = call.request.query
    feed = query.get("feed", "normal")
    feed = "continuous" if feed == "live" else feed
    if feed not in _FEEDS:
        raise RequestError(
            400,
            "bad_request",
            "Supported `feed` types: normal, continuous, live, longpoll, eventsource",
        )
    style = query.get("style", "main_only")
    if style not in ("main_only", "all_docs"):
        raise RequestError(400, "bad_request", "`style` must be main_only or all_docs")
    limit = call.number("limit")
    timeout = call.number("timeout")
    return Options(
        feed=feed,
        since=_since(call, feed),
        limit=_NO_LIMIT if limit is None else max(limit, 1),
        descending=call.flag("descending"),
        all_leaves=style == "all_docs",
        include_docs=call.flag("include_docs"),
        conflicts=call.flag("conflicts"),
        show=Show.asked(call),
        seq_interval=_seq_interval(call),
        heartbeat=_heartbeat(call),
        timeout=min(_DEFAULT_WAIT if timeout is None else timeout, _LONGEST_WAIT) / 1000,
        filter=await _filter(call, body),
    )


def _since(call: DatabaseCall, feed: str) -> int:
    """The number after which the feed begins. Raises RequestError.

    A browser that connects to an event source again says in `Last-Event-ID` what it has, whatever
    the URL says.
    """
    query = call.request.query
    text = query.get("last-event-id", query.get("since", "0"))
    if feed == "eventsource":
        text = call.request.headers.get("Last-Event-ID", text)
    if text == "now":
        return call.store.update_seq
    try:
        return sequences.number_of(call.store, text)
    except ValueError:
        reason = "Malformed sequence supplied in 'since' parameter."
        raise RequestError(400, "bad_request", reason) from None


def _seq_interval(call: DatabaseCall) -> int:
    """CouchDB takes what is no positive number as if it were not there."""
    text = call.request.query.get("seq_interval", "")
    return max(int(text), 1) if text.isascii() and text.isdigit() and len(text) <= 18 else 1


def _heartbeat(call: DatabaseCall) -> float | None:
    text = call.request.query.get("heartbeat")
    if text in (None, "false"):
        return None
    milliseconds = _DEFAULT_WAIT if text == "true" else call.number("heartbeat")
    if not milliseconds:
        raise RequestError(
            400,
            "bad_request",
            "The heartbeat value should be a positive integer (in milliseconds).",
        )
    return min(milliseconds, _LONGEST_WAIT) / 1000


async def _filter(call: DatabaseCall, body: JsonObject) -> Filter | None:
    name = call.request.query.get("filter")
    if not name:
        return None
    if name == "_design":
        return Filter(lambda document: document.id.startswith("_design/"))
    if name == "_doc_ids":
        return _doc_ids(call, body)
    if name == "_selector":
        selector = _selector(call, body)
        return Filter(
            lambda document: selector.matches(as_json(document)),
            reads_bodies=True,
            slow=selector.slow,
            selector=selector,
        )
    if name == "_view":
        view = call.request.query.get("view")
        if view is None:
            raise RequestError(400, "bad_request", "`view` filter parameter is not provided.")
        raise await _javascript(call, view, "views", "`view` must be of the form `designname/view`")
    raise await _javascript(
        call, name, "filters", "filter parameter must be of the form `designname/filtername`"
    )


def _doc_ids(call: DatabaseCall, body: JsonObject) -> Filter:
    ids: Any = body.get("doc_ids")
    if ids is None and "doc_ids" in call.request.query:
        ids = decode(call.request.query["doc_ids"].encode(errors="replace"), Any)
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        reason = "`doc_ids` filter parameter is not a list of doc ids."
        raise RequestError(400, "bad_request", reason)
    wanted = frozenset(ids)
    return Filter(lambda document: document.id in wanted, ids=wanted)


def _selector(call: DatabaseCall, body: JsonObject) -> Selector:
    """The refusals are other ones than those of _find, as in CouchDB."""
    if call.request.method != "POST":
        raise RequestError(400, "bad_request", "Selector must be specified in POST payload")
    value = body.get("selector")
    if not isinstance(value, dict):
        raise RequestError(400, "bad_request", "Selector error: expected a JSON object")
    try:
        return parse_selector(value)
    except SelectorError as error:
        raise RequestError(400, "bad_request", str(error)) from None


async def _javascript(
    call: DatabaseCall, name: str, member: str, form: str
) -> RequestError | NotFoundError:
    """The refusal of a filter that is JavaScript in a design document, if it is there at all."""
    design, slash, function = name.partition("/")
    if not slash or "/" in function:
        return RequestError(400, "bad_request", form)
    document = await call.store.get(f"_design/{design}")
    if document is None or document.deleted:
        return NotFoundError(
            f"_design/{design}: no such document", reason="missing" if not document else "deleted"
        )
    functions = msgspec.json.decode(document.body, type=dict[str, Any]).get(member)
    if not isinstance(functions, dict):
        return NotFoundError(f"{name}: no such filter", reason=f"missing json key: {member}")
    if function not in functions:
        return NotFoundError(f"{name}: no such filter", reason=f"missing json key: {function}")
    return RequestError(
        501,
        "not_implemented",
        "Filters in JavaScript are not run here; use filter=_selector with a Mango selector",
    )
