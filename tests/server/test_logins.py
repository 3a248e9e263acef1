"""Passwords are checked once for many requests, and slowly for who guesses."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from agent.errors import RequestError
from agent.server import logins as module
from agent.server.logins import Logins
from agent.server.passwords import PasswordHash
from tests.patience import PATIENCE
from tests.rig.clock import Clock
from tests.server.accounts import quick_hash


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    matches = PasswordHash.matches

    def watched(self: PasswordHash, password: str) -> bool:
        seen.append(password)
        return matches(self, password)

    monkeypatch.setattr(PasswordHash, "matches", watched)
    return seen


def logins(**options: Any) -> Logins:
    names = ("anna", "mia")
    hashes = {name: PasswordHash.parse(quick_hash(f"{name}'s")) for name in names}
    return Logins(hashes, nobody=PasswordHash.parse(quick_hash("nobody's")), **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def delays(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each try is to wait, which none does."""
    told: list[float] = []
    delay = Logins._delay

    def watched(self: Logins, failures: Any) -> float:
        told.append(delay(self, failures))
        return 0.0

    monkeypatch.setattr(Logins, "_delay", watched)
    return told


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> float:
    """The seconds of a delay that no test waits for."""
    monkeypatch.setattr(module, "_LONGEST_DELAY", 2 * PATIENCE)
    return 2 * PATIENCE


async def at_once(check: Any) -> bool:
    return bool(await asyncio.wait_for(check, PATIENCE))


async def seconds(check: Any) -> float:
    start = time.monotonic()
    await check
    return time.monotonic() - start


async def test_a_password_that_was_right_is_not_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = counted(monkeypatch)
    checker = logins()
    for _ in range(3):
        assert await checker.check("anna", "anna's", "192.0.2.1")
    together = [checker.check("mia", "mia's", "192.0.2.1") for _ in range(5)]
    assert all(await asyncio.gather(*together))
    assert seen == ["anna's", "mia's"]
    monkeypatch.setattr(module, "_REMEMBERED", -1.0)
    checker = logins()
    for _ in range(2):
        assert await checker.check("anna", "anna's", None)
    assert len(seen) == 4


async def test_a_wrong_password_is_never_remembered_as_right() -> None:
    checker = logins(first_delay=0.0)
    assert await checker.check("anna", "anna's", None)
    for name, password in (("anna", "x"), ("mia", "anna's"), ("ann", "a:anna's"), ("anna", "")):
        for _ in range(2):
            assert not await checker.check(name, password, None)


async def test_a_name_that_nobody_has_costs_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    assert not await logins().check("nobody", "x", None)
    assert seen == ["x"]


async def test_each_failure_delays_the_next_try_for_longer(delays: list[float]) -> None:
    checker = logins(first_delay=0.1)
    for number in range(4):
        await checker.check("anna", f"guess {number}", "192.0.2.1")
    assert delays == [0.0, 0.1, 0.2, 0.4]
    # That user elsewhere, and others at that address, do not wait.
    assert await checker.check("anna", "anna's", "192.0.2.2")
    assert await checker.check("mia", "mia's", "192.0.2.1")
    assert delays[4:] == [0.0, 0.0]


async def test_tries_at_the_same_time_are_delayed_one_after_the_other() -> None:
    checker = logins(first_delay=0.1)
    tries = [checker.check("anna", f"guess {number}", "192.0.2.1") for number in range(4)]
    assert await seconds(asyncio.gather(*tries)) >= 0.1 + 0.2 + 0.4 - 0.05


async def test_who_is_logged_in_does_not_notice(long: float) -> None:
    checker = logins(first_delay=long)
    assert await checker.check("anna", "anna's", "192.0.2.1")
    assert not await checker.check("anna", "x", "192.0.2.1")
    assert await at_once(checker.check("anna", "anna's", "192.0.2.1"))


async def test_a_success_and_time_forgive(delays: list[float], clock: Clock) -> None:
    checker = logins(first_delay=0.1)
    for password in ("v", "w", "anna's", "x", "y"):
        await checker.check("anna", password, None)
    assert delays == [0.0, 0.1, 0.2, 0.0, 0.1]
    clock.now += module._FORGIVEN + 1
    for password in ("z", "anna's"):
        await checker.check("anna", password, None)
    assert delays[5:] == [0.0, 0.1]


async def test_requests_with_one_password_wait_for_one_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = counted(monkeypatch)
    checker = logins(first_delay=0.0)
    right = [checker.check("anna", "anna's", "192.0.2.1") for _ in range(30)]
    assert all(await asyncio.gather(*right))
    wrong = [checker.check("mia", "old", "192.0.2.1") for _ in range(30)]
    assert not any(await asyncio.gather(*wrong))
    assert seen == ["anna's", "old"]


async def test_what_is_remembered_stays_so_while_it_is_used(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    checker = logins()
    for _ in range(8):
        assert await checker.check("anna", "anna's", None)
        clock.now += module._REMEMBERED - 1
    assert seen == ["anna's"]
    clock.now += 1
    assert await checker.check("anna", "anna's", None)
    assert len(seen) == 2


async def test_a_client_with_an_old_password_counts_once(
    delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    checker = logins(first_delay=0.1)
    for _ in range(20):
        assert not await checker.check("anna", "old", "192.0.2.1")
    assert seen == ["old"]
    assert await checker.check("anna", "anna's", "192.0.2.1")
    assert delays == [0.0, 0.1]
    assert not await checker.check("anna", "old", "192.0.2.1")


async def test_many_passwords_at_a_time_for_one_name_are_refused(long: float) -> None:
    checker = logins(first_delay=long)
    await checker.check("anna", "x", "192.0.2.1")
    guesses = [checker.check("anna", f"guess {number}", "192.0.2.1") for number in range(8)]
    waiting = [asyncio.create_task(guess) for guess in guesses]
    await asyncio.sleep(0.01)
    with pytest.raises(RequestError) as caught:
        await checker.check("anna", "anna's", "192.0.2.1")
    assert caught.value.status == 429
    # Others there, and anna elsewhere, are let in at once.
    assert await at_once(checker.check("mia", "mia's", "192.0.2.1"))
    assert await at_once(checker.check("anna", "anna's", "192.0.2.2"))
    for task in [*waiting, *checker._checks.values()]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not checker._checks


async def test_failures_of_invented_names_do_not_keep_users_out(long: float) -> None:
    checker = logins(first_delay=long)
    names = [f"nobody {number}" for number in range(20)]
    await asyncio.gather(*(checker.check(name, "x", "192.0.2.1") for name in names))
    delayed = [asyncio.create_task(checker.check(name, "y", "192.0.2.1")) for name in names]
    await asyncio.sleep(0.01)
    assert await at_once(checker.check("mia", "mia's", "192.0.2.1"))
    for task in [*delayed, *checker._checks.values()]:
        task.cancel()
    await asyncio.gather(*delayed, return_exceptions=True)


async def test_invented_names_do_not_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def slowly(self: PasswordHash, password: str) -> bool:
        time.sleep(0.05)
        seen.append(password)
        return password == "mia's"

    monkeypatch.setattr(PasswordHash, "matches", slowly)
    checker = logins()
    await checker.check("nobody", "x", "192.0.2.1")
    tries = [checker.check(f"nobody {number}", "y", "192.0.2.1") for number in range(60)]
    waiting = [asyncio.create_task(seconds(each)) for each in tries]
    await asyncio.sleep(0.01)
    # Eight checks before this one, not sixty.
    assert await checker.check("mia", "mia's", "192.0.2.1")
    assert seen == ["x", *["y"] * 8, "mia's"]
    # Those that were not worked out took as long as the last of those that were, nine checks.
    times = await asyncio.gather(*waiting)
    assert min(times[8:]) >= 9 * 0.05 - 0.01
    assert len(seen) == 10


async def test_an_ipv6_network_is_one_address(delays: list[float]) -> None:
    checker = logins(first_delay=0.2)
    await checker.check("anna", "x", "2001:db8::1")
    await checker.check("anna", "y", "2001:db8::ffff:2")
    await checker.check("anna", "y", "2001:db8:0:1::1")
    assert delays == [0.0, 0.2, 0.0]


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FAILURES", 10)
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 1)
    checker = logins()
    for number in range(30):
        await checker.check(f"guess {number}", "x", "192.0.2.1")
    assert len(checker._failures) == 10
    assert await checker.check("anna", "anna's", None)
    assert await checker.check("mia", "mia's", None)
    assert len(checker._right) == 1
    assert not checker._checks
    assert not checker._of_nobody


async def test_nothing_that_was_typed_is_kept() -> None:
    checker = logins(first_delay=0.0)
    await checker.check("anna", "anna's", None)
    await checker.check("anna", "hunter2", None)
    kept = repr([vars(checker), [vars(type(checker))]])
    assert "anna's" not in kept
    assert "hunter2" not in kept
