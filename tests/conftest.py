"""The rig around every test.

The time limit of a test is in pyproject.toml, what it waits with in `tests/patience.py`. The checks
and helpers are in `tests/rig`, the real servers and clients in `tests/peers`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long one example takes says more of what else the machine does than of the program.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# Named here rather than imported, so that pytest can explain their assertions. One that imports
# another comes after it.
pytest_plugins = (
    "pytester",
    "tests.rig.blocking",
    "tests.rig.leaks",
    "tests.rig.network",
    "tests.peers.pouchdb_server",
    "tests.peers.pouch",
)

_LONGEST = ("install", "faults", "test_bench.py", "devices", "fuzz", "test_demo.py")
"""Where the tests are that take longest, by what is in this folder."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that in the end none is left to run alone."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(here).parts[0] not in _LONGEST)
