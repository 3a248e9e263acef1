"""The package, built once for all tests of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.install.machine import build_package


@pytest.fixture(scope="package")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_package(tmp_path_factory.mktemp("package"))
