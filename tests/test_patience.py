"""How tests wait."""

from __future__ import annotations

from functools import partial

import pytest

from tests import patience
from tests.patience import until, when_true


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.05)


async def test_what_is_true_at_last_is_returned() -> None:
    answers = [0, None, 7]

    async def answer() -> int | None:
        return answers.pop(0)

    assert await until(answer) == 7
    assert await until(lambda: "at once") == "at once"
    assert when_true(partial([0, 3].pop, 0)) == 3


@pytest.mark.usefixtures("hasty")
async def test_who_waits_in_vain_says_for_what() -> None:
    arrived = False
    with pytest.raises(AssertionError, match=r"^waited 0 s in vain: it arrives$"):
        await until(lambda: arrived, "it arrives")
    with pytest.raises(AssertionError, match=r"in vain: await until.lambda: arrived"):
        await until(lambda: arrived)
    with pytest.raises(AssertionError, match=r"in vain: functools.partial"):
        when_true(partial(bool, arrived))


async def test_a_time_out_of_the_condition_is_its_own() -> None:
    async def ask() -> None:
        raise TimeoutError("the server does not answer")

    with pytest.raises(TimeoutError, match="the server"):
        await until(ask)
