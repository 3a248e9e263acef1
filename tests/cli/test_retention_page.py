"""docs/retention.md: its example is a whole configuration file that shows every key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from agent.config_file import load
from agent.config_retention import RetentionConfig, RuleConfig
from agent.errors import ConfigError
from tests.cli.helpers import in_process

PAGE = Path(__file__).parents[2] / "docs" / "retention.md"

BASE = '[agent]\ndata = "data"\n'


def test_the_example_shows_every_key(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "example.toml"
    path.write_text(example)
    (tmp_path / "cloud.password").write_text("x")
    done = in_process("config", "check", "--config", path)
    assert (done.status, done.stderr) == (0, "")
    config = load(path)
    assert config.retention is not None
    assert config.retention.bytes == 2_000_000_000
    assert [rule.seconds for rule in config.retention.rule] == [12 * 3600, 90 * 86_400]
    assert [remote.required for remote in config.remote] == [True, False]
    for kind in (RetentionConfig, RuleConfig):
        for field in msgspec.structs.fields(kind):
            assert f"\n{field.name} = " in example or f"retention.{field.name}]]" in example


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("5000000", 5_000_000),
        ('"512 MiB"', 512 * 2**20),
        ('"1.5 GB"', 1_500_000_000),
        ('"2000 kB"', 2_000_000),
    ],
)
def test_sizes(tmp_path: Path, size: str, expected: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"{BASE}[retention]\nmax_size = {size}\n")
    config = load(path)
    assert config.retention is not None
    assert config.retention.bytes == expected


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ("[retention]\n", "give max_size, for example"),
        ("[retention]\nmax_size = 5\n", "max_size = 5: expected bytes, or a text such as '2 GB'"),
        ('[retention]\nmax_size = "2 apples"\n', "max_size = '2 apples': expected bytes"),
        ('[retention]\nmax_size = "inf GB"\n', "max_size = 'inf GB': expected bytes"),
        ('[retention]\nmax_size = "lots"\n', "max_size = 'lots': expected bytes"),
        ("[retention]\nmax_size = true\n", "retention.max_size = True is not allowed"),
        (
            '[retention]\nmax_size = "2 GB"\nwhen_full = "drop"\n',
            "retention.when_full = 'drop' is not allowed",
        ),
        ('[[retention.rule]]\nkeep = "3 moons"\n', "keep = '3 moons': expected seconds"),
        ("[[retention.rule]]\nkeep = 0\n", "keep = 0.0: expected seconds"),
        ('[[retention.rule]]\nsensor = "x"\n', "retention.rule.keep"),
        ('[[retention.rule]]\nkeep = 5\nage = "1 day"\n', "unknown key"),
        (
            '[[remote]]\nname = "a"\nurl = "http://a/b"\ndirection = "pull"\nrequired = false\n',
            "remote 'a': required is of no use with direction = \"pull\"",
        ),
    ],
)
def test_mistakes(tmp_path: Path, tables: str, complaint: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(BASE + tables)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert complaint in str(caught.value)
    assert str(path) in str(caught.value)
