"""docs/security.md: what it names is there, and its example is a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.helpers import in_process

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_the_tests_that_it_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", PAGE)
    assert len(named) > 30
    for file, test in named:
        assert (ROOT / file).exists(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), (file, test)


def test_the_example_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
    config = tmp_path / "example.toml"
    credentials = tmp_path / "credentials"
    config.write_text(example.replace("/run/credentials/edge-agent.service", str(credentials)))
    credentials.mkdir()
    (credentials / "cloud.password").write_text("secret")
    (tmp_path / "hook.key").write_text("secret")
    monkeypatch.setenv("HOOK_TOKEN", "secret")
    done = in_process("config", "check", "--config", config)
    assert (done.status, done.stderr) == (0, "")
