"""Checking names and passwords: once for many requests, slowly for who guesses.

A check costs a tenth of a second and 16 MiB on purpose, and clients with Basic authentication send
the password with every request. So a password that was right is remembered for a while, as a keyed
hash; and checks run one after the other, in a thread.

A failure delays the next try of the same name from the same address, for longer each time.
Nobody else waits: neither that user at another address, nor those who are logged in.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.errors import RequestError
from agent.server.passwords import PasswordHash, nobodys_hash

log = logging.getLogger(__name__)

_REMEMBERED = 300.0
"""Seconds that a password that was right counts as right without another look."""

_MOST_REMEMBERED = 256
_MOST_FAILURES = 4096  # pairs of name and address whose failures are remembered
_MOST_WAITING = 8  # checks at a time that one address may have in the queue

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 8.0
_FORGIVEN = 900.0
"""Seconds after which failures are forgotten."""


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Logins:
    """The configured users' passwords, and who tried them."""

    def __init__(
        self,
        hashes: Mapping[str, PasswordHash],
        *,
        first_delay: float = _FIRST_DELAY,
        nobody: PasswordHash | None = None,
    ) -> None:
        """`hashes` by user name; `first_delay` in seconds follows a first failure.

        `nobody` is checked for names that no user has, so that they take as long.
        """
        self._hashes = dict(hashes)
        self._nobody = nobody or nobodys_hash()
        self._first_delay = first_delay
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self._waiting: Counter[str] = Counter()
        self._one_at_a_time = asyncio.Semaphore(1)

    async def check(self, name: str, password: str, address: str | None) -> bool:
        """Whether that is the user's password. `address` is the client's.

        Raises RequestError (429) when too many tries from that address wait already.
        """
        digest = self._digest(name, password)
        if self._is_remembered(digest):
            return True
        origin = _network(address)
        if self._waiting[origin] >= _MOST_WAITING:
            raise RequestError(
                429, "too_many_requests", "Too many log-ins at a time from your address."
            )
        self._waiting[origin] += 1
        try:
            return await self._check(name, password, origin, digest)
        finally:
            self._waiting[origin] -= 1
            if not self._waiting[origin]:
                del self._waiting[origin]

    async def _check(self, name: str, password: str, origin: str, digest: bytes) -> bool:
        failures = self._failures_of(name, origin)
        async with failures.turn:
            await asyncio.sleep(self._delay(failures))
            if self._is_remembered(digest):
                return True  # the same password, checked while this one waited
            hash = self._hashes.get(name, self._nobody)
            async with self._one_at_a_time:
                right = await asyncio.to_thread(hash.matches, password)
            if right:
                failures.count = 0
                self._remember(digest)
            else:
                failures.count += 1
                failures.last = time.monotonic()
                log.warning("log-in failed for %r from %s (%d)", name[:64], origin, failures.count)
            return right

    def _failures_of(self, name: str, origin: str) -> _Failures:
        key = (name[:256], origin)
        failures = self._failures.setdefault(key, _Failures())
        self._failures.move_to_end(key)
        if len(self._failures) > _MOST_FAILURES:
            self._failures.popitem(last=False)
        return failures

    def _delay(self, failures: _Failures) -> float:
        since = time.monotonic() - failures.last
        if not failures.count or since > _FORGIVEN:
            failures.count = 0
            return 0.0
        delay = min(self._first_delay * 2.0 ** min(failures.count - 1, 16), _LONGEST_DELAY)
        return max(delay - since, 0.0)

    def _digest(self, name: str, password: str) -> bytes:
        """Stands for a name and a password in memory; the key is this process's alone."""
        # A name has no colon, so no two pairs make the same text.
        return hashlib.blake2b(
            f"{name}:{password}".encode(errors="surrogatepass"), key=self._key, digest_size=32
        ).digest()

    def _is_remembered(self, digest: bytes) -> bool:
        until = self._right.get(digest)
        return until is not None and time.monotonic() < until

    def _remember(self, digest: bytes) -> None:
        self._right[digest] = time.monotonic() + _REMEMBERED
        self._right.move_to_end(digest)
        if len(self._right) > _MOST_REMEMBERED:
            self._right.popitem(last=False)


def _network(address: str | None) -> str:
    """The address, or of an IPv6 address the network: one client has all the addresses in it."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)
