from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.api import Api, running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Api]:
    """A server without databases."""
    async with running(tmp_path) as api:
        yield api


@pytest.fixture
async def api(server: Api) -> Api:
    """A server with the empty database `db`."""
    assert (await server.put("/db")).status == 201
    return server
