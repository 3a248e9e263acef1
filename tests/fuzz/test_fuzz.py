"""The fuzzer's short run: the same requests each time, to every path and method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.agents import hub
from tests.fuzz import description
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from tests.fuzz.fuzzer import Fuzzer

EXAMPLES = 15
"""Requests to each method and path."""

_ROUTES = list(description.routes(description.load()))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A hub that all tests of this module fuzz; the last one looks at what they left of it."""
    data = tmp_path_factory.mktemp("fuzz") / "data"
    with hub(data) as process:
        yield Target(process, process.wait_until_ready(), data)


@pytest.fixture(scope="module")
def fuzzer(target: Target) -> Fuzzer:
    # Imported here: it takes longer than all the rest of the collection.
    from tests.fuzz.fuzzer import Fuzzer

    return Fuzzer(target)


@pytest.mark.parametrize("method", sorted({method for method, _ in _ROUTES}))
def test_whatever_is_asked(target: Target, fuzzer: Fuzzer, method: str) -> None:
    for number, (each, path) in enumerate(_ROUTES):
        if each == method:
            target.prepare()
            fuzzer.run(method, path, examples=EXAMPLES, start=number)


def test_the_hub_is_well_afterwards(target: Target) -> None:
    target.check_to_the_end()
