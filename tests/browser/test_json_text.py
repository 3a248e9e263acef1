"""The dashboard's own reading of JSON: nothing that nobody edited changes (json.ts)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
DASHBOARD = HERE.parents[1] / "agent" / "server" / "dashboard"

names = st.text(max_size=4) | st.sampled_from(["__proto__", "constructor", "a", "b", "\u202e"])
atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
values = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
objects = st.dictionaries(names, values, max_size=4)

Ask = Callable[..., str]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """What json.ts makes of values: a function of what is asked, and the values."""
    bundle = tmp_path_factory.mktemp("json") / "json.mjs"
    rolldown = DASHBOARD / "node_modules" / ".bin" / "rolldown"
    subprocess.run([rolldown, "src/json.ts", "-o", bundle], cwd=DASHBOARD, check=True,
                   capture_output=True)  # fmt: skip
    command = ["node", str(HERE / "json_text.mjs"), str(bundle)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None

        def ask(what: str, *given: Any) -> str:
            texts = [json.dumps(value) for value in given]
            node.stdin.write(json.dumps([what, *texts]) + "\n")  # type: ignore[union-attr]
            node.stdin.flush()  # type: ignore[union-attr]
            return str(json.loads(node.stdout.readline()))  # type: ignore[union-attr]

        yield ask
        node.stdin.close()


@settings(max_examples=150)
@given(value=values)
def test_what_is_shown_is_the_same_json(ask: Ask, value: Any) -> None:
    for what in ("format", "line"):
        shown = ask(what, value)
        # Numbers as texts: 1.0 is not 1, and no digit is lost.
        assert json.loads(shown, parse_int=str, parse_float=str) == json.loads(
            json.dumps(value), parse_int=str, parse_float=str
        )
        assert not {"\u202e", "\u2066", "\u200b"} & set(shown)


@settings(max_examples=150)
@given(one=values, other=values)
def test_the_same_is_what_json_means_by_it(ask: Ask, one: Any, other: Any) -> None:
    def meant(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert ask("same", one, one) == "true"
    assert ask("same", one, other) == str(meant(one) == meant(other)).lower()


@settings(max_examples=150)
@given(base=objects, mine=objects, theirs=objects)
def test_changes_on_top_of_others_lose_neither(
    ask: Ask, base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    def on_top(*sides: Any) -> Any:
        return json.loads(ask("onTop", *sides))

    assert on_top(base, base, mine) == mine
    assert on_top(base, theirs, base) == theirs
    merged = on_top(base, theirs, mine)
    for name in {*base, *mine, *theirs}:
        if base.get(name) == mine.get(name) and (name in base) == (name in mine):
            assert merged.get(name) == theirs.get(name)
        elif not isinstance(mine.get(name), dict):
            assert merged.get(name) == mine.get(name)
