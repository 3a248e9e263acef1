"""The rig around every test.

The time limit of a test is in pyproject.toml. The checks and helpers are in `tests/rig`, the real
servers and clients in `tests/peers`.
"""

from __future__ import annotations

from hypothesis import settings

# How long one example takes says more of what else the machine does than of the program.
settings.register_profile("unhurried", deadline=None)
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
