"""What of the log reaches the disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from agent.cli.main import _MOST_OF_A_KIND, _NoFlood
from tests.cli.helpers import in_process


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the program logs from now on, by the handler that it has set up."""
    handlers: list[logging.Handler] = []
    monkeypatch.setattr("logging.basicConfig", lambda **given: handlers.extend(given["handlers"]))
    in_process("ports")
    [handler] = handlers
    found: list[str] = []
    monkeypatch.setattr(handler, "emit", lambda record: found.append(record.getMessage()))
    log = logging.getLogger("flood")
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "level", logging.DEBUG)
    log.addHandler(handler)
    yield found
    log.removeHandler(handler)


def test_who_can_cause_a_warning_cannot_fill_the_disk_with_it(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("flood")
    for number in range(1000):
        log.warning("log-in failed for %r", f"name-{number}")
        log.info("asked for %d", number)
    log.warning("something else: %s", "disk")
    warnings = [line for line in lines if line.startswith("log-in")]
    assert len(warnings) == _MOST_OF_A_KIND
    assert warnings[-1].endswith("(more of this kind are left out, for a minute)")
    assert "left out" not in "".join(warnings[:-1])
    assert len([line for line in lines if line.startswith("asked")]) == 1000
    assert lines[-1] == "something else: disk"
    [flood] = [each for each in log.handlers[0].filters if isinstance(each, _NoFlood)]
    monkeypatch.setattr(flood, "_until", 0.0)
    log.warning("log-in failed for %r", "later")
    assert lines[-1] == "log-in failed for 'later'"
