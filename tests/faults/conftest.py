"""What the tests of power cuts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.power import record


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorder, compiled; skips the test without a compiler."""
    if (missing := record.missing_compiler()) is not None:
        pytest.skip(missing)
    return record.recorder(tmp_path_factory.mktemp("recorder"))
