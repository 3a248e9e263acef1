"""Password hashes: how they are written in the configuration, made and checked.

Two forms are understood:

- `$scrypt$ln=14,r=8,p=5$SALT$HASH`, which `edge-agent user add` makes (the PHC string format, salt
  and hash in base64 without padding);
- `-pbkdf2-HASH,SALT,ITERATIONS` and `-pbkdf2:sha256-HASH,SALT,ITERATIONS`, as CouchDB keeps its
  administrators (CouchDB documentation, "Configuration > Authentication and Authorization"), so
  that a line of a `local.ini` can be taken over.

Hashing takes a good part of a second on a small gateway: never on the event loop.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from agent.errors import ConfigError

# 16 MiB and five passes, one of the settings that OWASP recommends: a gateway has little memory.
_LOG_N, _R, _P = 14, 8, 5
_SALT_BYTES = 16
_HASH_BYTES = 32

# What a hash from a configuration may cost at most: a typing mistake must not stall the gateway.
_MOST_MEMORY = 256 * 1024 * 1024
_MOST_PASSES = 16
_MOST_ITERATIONS = 10_000_000

_SCRYPT = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)
_PBKDF2 = re.compile(r"-pbkdf2(?::(sha|sha224|sha256|sha384|sha512))?-([0-9a-f]+),([^,]+),(\d+)")


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A hash with what is needed to check a password against it. Its text is not shown."""

    text: str = field(repr=False)
    _scheme: str
    _cost: tuple[int, ...]
    _salt: bytes = field(repr=False)
    _hash: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Raises ConfigError, which does not repeat the hash."""
        if found := _SCRYPT.fullmatch(text):
            log_n, r, p = (int(number) for number in found.groups()[:3])
            memory = 128 * r << log_n
            if log_n < 1 or not 0 < p <= _MOST_PASSES or not 0 < memory <= _MOST_MEMORY:
                raise _bad(f"ln={log_n},r={r},p={p} asks for too much, or for nothing")
            try:
                salt, hash = _unpadded(found[4]), _unpadded(found[5])
            except binascii.Error:
                raise _bad("salt or hash are not base64") from None
            return cls(text, "scrypt", (log_n, r, p), salt, hash)
        if found := _PBKDF2.fullmatch(text):
            iterations = int(found[4])
            if not 0 < iterations <= _MOST_ITERATIONS or len(found[2]) % 2:
                raise _bad("the number of iterations or the length is impossible")
            name = "sha1" if found[1] in (None, "sha") else found[1]
            # CouchDB derives from the salt's text, not from the bytes that it stands for.
            return cls(text, name, (iterations,), found[3].encode(), bytes.fromhex(found[2]))
        raise _bad("it begins with neither $scrypt$ nor -pbkdf2-")

    def matches(self, password: str) -> bool:
        """Whether this is the password, in constant time. Slow by design."""
        return hmac.compare_digest(
            self._derive(password.encode(errors="surrogatepass")), self._hash
        )

    def _derive(self, password: bytes) -> bytes:
        length = len(self._hash)
        if self._scheme != "scrypt":
            return hashlib.pbkdf2_hmac(self._scheme, password, self._salt, self._cost[0], length)
        log_n, r, p = self._cost
        return _scrypt(password, self._salt, log_n, r, p, length)


def hash_password(password: str) -> str:
    """A new scrypt hash of a password, with a salt of its own."""
    salt = secrets.token_bytes(_SALT_BYTES)
    derived = _scrypt(password.encode(), salt, _LOG_N, _R, _P, _HASH_BYTES)
    return f"$scrypt$ln={_LOG_N},r={_R},p={_P}${_base64(salt)}${_base64(derived)}"


def nobodys_hash() -> PasswordHash:
    """A hash that no password matches, and that costs as much to check as one of ours.

    For names that nobody has: how long an answer takes must not tell who has an account.
    """
    salt, hash = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES)
    return PasswordHash("", "scrypt", (_LOG_N, _R, _P), salt, hash)


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int, length: int) -> bytes:
    return hashlib.scrypt(
        password, salt=salt, n=1 << log_n, r=r, p=p, maxmem=2 * _MOST_MEMORY, dklen=length
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _bad(why: str) -> ConfigError:
    return ConfigError(f"password_hash cannot be used: {why}; make one with: edge-agent user add")
