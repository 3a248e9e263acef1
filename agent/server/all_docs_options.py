"""What a request to `_all_docs` and its kin asks for.

Source: CouchDB documentation, "API Reference > Databases > Bulk > /{db}/_all_docs".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.errors import RequestError
from agent.server.answers import json_text
from agent.server.attached import Show
from agent.server.call import DatabaseCall

_FLAGS = (
    "descending",
    "include_docs",
    "conflicts",
    "attachments",
    "att_encoding_info",
    "update_seq",
)
_NUMBERS = ("limit", "skip")
_KEYS = ("key", "keys", "startkey", "endkey")
_SYNONYMS = {"start_key": "startkey", "end_key": "endkey"}


class Options(msgspec.Struct):
    """Keys are JSON values, UNSET where they were not given."""

    key: Any = msgspec.UNSET
    keys: Any = msgspec.UNSET
    startkey: Any = msgspec.UNSET
    endkey: Any = msgspec.UNSET
    inclusive_end: bool = True
    descending: bool = False
    include_docs: bool = False
    conflicts: bool = False
    attachments: bool = False
    att_encoding_info: bool = False
    update_seq: bool = False
    limit: int | None = None
    skip: int = 0

    @property
    def show(self) -> Show:
        """What the documents have of their attachments."""
        return Show(self.attachments, self.att_encoding_info)


def from_query(call: DatabaseCall) -> Options:
    """The options in a URL. Raises RequestError."""
    options = Options()
    for name in call.request.query:
        known = _SYNONYMS.get(name, name)
        if known in _KEYS:
            setattr(options, known, call.json_parameter(name))
        elif known in _NUMBERS:
            setattr(options, known, call.number(name))
        elif known in _FLAGS:
            setattr(options, known, call.flag(name))
        elif known == "inclusive_end":
            options.inclusive_end = call.request.query[name] != "false"
    _check_keys(options)
    return options


def with_members(options: Options, members: Mapping[str, Any]) -> Options:
    """The options with those of a body, or of one of several queries. Raises RequestError."""
    options = replace(options)
    for name, value in members.items():
        known = _SYNONYMS.get(name, name)
        if known in _NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**18:
                raise RequestError(
                    400,
                    "query_parse_error",
                    f"Invalid value for positive integer parameter: {name}",
                )
        elif known in _FLAGS or known == "inclusive_end":
            if not isinstance(value, bool):
                raise RequestError(
                    400, "query_parse_error", f"Invalid boolean parameter: {json_text(value)}"
                )
        elif known not in _KEYS:
            continue
        setattr(options, known, value)
    _check_keys(options)
    return options


def _check_keys(options: Options) -> None:
    if options.keys is None:
        options.keys = msgspec.UNSET
    if options.keys is msgspec.UNSET:
        return
    if not isinstance(options.keys, list):
        raise RequestError(400, "bad_request", "`keys` parameter must be an array.")
    ranges = (options.key, options.startkey, options.endkey)
    if any(value is not msgspec.UNSET for value in ranges):
        raise RequestError(
            400,
            "query_parse_error",
            "`keys` is incompatible with `key`, `start_key` and `end_key`",
        )
