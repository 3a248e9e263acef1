"""A short field day; scripts/bench has a long one."""

from __future__ import annotations

from pathlib import Path

from scripts.benchmarks.field import SHORT, live


async def test_nothing_is_lost_or_doubled_on_a_short_field_day(tmp_path: Path) -> None:
    account = await live(tmp_path, SHORT)
    print(account)
    assert account.taken >= SHORT.readings
    assert (account.missing, account.doubled, account.invented) == (0, 0, 0)
