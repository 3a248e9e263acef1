"""A hub for the tests of one module; each test uses databases of its own in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import agents


@pytest.fixture(scope="module")
def hub_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with agents.hub(tmp_path_factory.mktemp("hub") / "data") as hub:
        yield hub.wait_until_ready()
