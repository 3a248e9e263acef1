"""Checking names and passwords: once for many requests, slowly for who guesses.

A check costs a tenth of a second and 16 MiB on purpose, and clients with Basic authentication send
the password with every request, several at a time. So a password that was right is remembered, as a
keyed hash, for as long as it is used; requests with the same password wait for one check of it; and
checks run one after the other, in a thread.

A failure delays the next try of the same name from the same address, for longer each time. A
password that is known to be wrong there is refused at once and counts no more: that is a client
whose password has changed, and who guesses learns nothing. Nobody else waits: neither that user at
another address, nor others at that one, nor those who are logged in.
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

import msgspec

from agent.errors import RequestError
from agent.server.passwords import PasswordHash, nobodys_hash

log = logging.getLogger(__name__)

_REMEMBERED = 300.0
"""Seconds without use after which a password that was right is looked at again."""

_MOST_REMEMBERED = 256
_MOST_FAILURES = 4096  # pairs of name and address whose failures are remembered
_MOST_KNOWN_WRONG = 4  # passwords of such a pair
_MOST_WAITING = 8  # passwords at a time that are tried for such a pair
_MOST_OF_NOBODY = 8  # checks at a time, for one address, of names that no user has

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 8.0
_FORGIVEN = 900.0
"""Seconds after which failures are forgotten."""


class _Failures(msgspec.Struct):
    count: int = 0
    last: float = 0.0
    known_wrong: tuple[bytes, ...] = ()
    waiting: int = 0
    turn: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    def add(self, digest: bytes) -> None:
        self.count += 1
        self.last = time.monotonic()
        self.known_wrong = (*self.known_wrong, digest)[-_MOST_KNOWN_WRONG:]


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
        self._checks: dict[tuple[str, bytes], asyncio.Task[bool]] = {}
        self._of_nobody: Counter[str] = Counter()
        self._seconds = 0.0  # that the latest check took
        self._one_at_a_time = asyncio.Semaphore(1)

    async def check(self, name: str, password: str, address: str | None) -> bool:
        """Whether that is the user's password. `address` is the client's.

        Raises RequestError (429) when too many passwords are tried for that name there already.
        """
        digest = self._digest(name, password)
        if self._is_remembered(digest):
            return True
        origin = _network(address)
        check = self._checks.get((origin, digest))
        if check is None:
            failures = self._failures_of(name, origin)
            if digest in failures.known_wrong:
                return False
            if failures.waiting >= _MOST_WAITING:
                raise RequestError(
                    429, "too_many_requests", "Too many log-ins at a time by that name."
                )
            check = asyncio.create_task(self._try(name, password, origin, digest, failures))
            self._checks[origin, digest] = check
            failures.waiting += 1

            def done(_: asyncio.Task[bool]) -> None:
                del self._checks[origin, digest]
                failures.waiting -= 1

            check.add_done_callback(done)
        return await asyncio.shield(check)  # others may wait for it, too

    async def _try(
        self, name: str, password: str, origin: str, digest: bytes, failures: _Failures
    ) -> bool:
        async with failures.turn:
            await asyncio.sleep(self._delay(failures))
            if self._is_remembered(digest):
                return True  # checked meanwhile, for another address
            if name in self._hashes:
                right = await self._matches(self._hashes[name], password)
            else:
                right = await self._matches_nobody(password, origin)
            if right:
                failures.count = 0
                self._remember(digest)
            else:
                failures.add(digest)
                count = failures.count
                log.warning("log-in failed for %r from %s (%d)", name[:64], origin, count)
            return right

    async def _matches(self, hash: PasswordHash, password: str) -> bool:
        async with self._one_at_a_time:
            start = time.monotonic()
            right = await asyncio.to_thread(hash.matches, password)
            self._seconds = time.monotonic() - start
        return right

    async def _matches_nobody(self, password: str, origin: str) -> bool:
        """False, in the time that a check takes. Invented names do not fill the users' queue."""
        if self._of_nobody[origin] >= _MOST_OF_NOBODY:
            await asyncio.sleep(self._seconds * (_MOST_OF_NOBODY + 1))
            return False
        self._of_nobody[origin] += 1
        try:
            return await self._matches(self._nobody, password)
        finally:
            self._of_nobody[origin] -= 1
            if not self._of_nobody[origin]:
                del self._of_nobody[origin]

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
        if until is None or time.monotonic() >= until:
            return False
        self._remember(digest)
        return True

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
