"""Runs the operations of the description against a target, with data that Schemathesis makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, reject, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.fuzz import description
from tests.fuzz.target import IN_PATHS, KNOWN, Asked, Target


class Fuzzer:
    """All operations by method and path."""

    def __init__(self, target: Target) -> None:
        self._target = target
        schema = schemathesis.openapi.from_dict(description.for_fuzzing(KNOWN))
        self._operations = {}
        for found in schema.get_all_operations():
            operation = found.ok()
            method = "COPY" if operation.method == description.COPY else operation.method.upper()
            self._operations[method, operation.path] = operation

    def run(self, method: str, path: str, *, examples: int, start: int) -> None:
        """Try an operation with so many requests, which `start` decides on.

        Half of them are as the description has it, half of them are not. Raises AssertionError.
        """
        operation = self._operations[method, path]
        cases = st.one_of(operation.as_strategy(mode) for mode in GenerationMode)
        names = re.findall(r"{(\w+)}", path)
        places = st.fixed_dictionaries(
            {name: st.sampled_from(IN_PATHS[name]) for name in names if name in IN_PATHS}
        )

        @seed(start)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            # What was written before is a part of what happens, so nothing is repeated or shrunk.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases, places)
        def attempt(case: Any, place: dict[str, str | None]) -> None:
            for name, value in place.items():
                if value is not None:
                    case.path_parameters[name] = value
            asked = self._asked(case, method, _filled_in(path, case.path_parameters))
            try:
                self._target.ask(asked)
            except (AssertionError, OSError, HTTPException, ValueError) as error:
                raise AssertionError(f"{asked}\n{error!r}") from None

        attempt()
        self._target.check()

    def _asked(self, case: Any, method: str, path: str) -> Asked:
        try:
            prepared = requests.Request(
                **{**case.as_transport_kwargs(base_url=self._target.url), "method": method}
            ).prepare()
            for name, value in prepared.headers.items():
                assume("\r" not in f"{name}{value}" and "\n" not in f"{name}{value}")
        except (requests.RequestException, UnicodeError):
            reject()  # what no client can send
        body = prepared.body
        query = urlsplit(prepared.url).query
        return Asked(
            method,
            f"{path}?{query}" if query else path,
            prepared.headers,
            body.encode() if isinstance(body, str) else body,
        )


def _filled_in(path: str, values: Mapping[str, Any]) -> str:
    """The path with its parameters; only slashes in the name of an attachment stay slashes."""

    def encoded(found: re.Match[str]) -> str:
        try:
            return quote(str(values[found[1]]), safe="/" if found[1] == "attname" else "")
        except UnicodeError:  # half a surrogate pair
            reject()

    return re.sub(r"{(\w+)}", encoded, path)
