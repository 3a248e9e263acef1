"""Password hashes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.server.passwords import PasswordHash, hash_password, nobodys_hash
from tests.server.accounts import quick_hash

# Made as CouchDB makes them: PBKDF2 over the salt's text.
SALT = "aa1124a1ff8fb5c1a5a6a01a1d2a4ae5"


def of_couchdb(scheme: str, digest: str, password: str) -> str:
    size = hashlib.new(digest).digest_size
    derived = hashlib.pbkdf2_hmac(digest, password.encode(), SALT.encode(), 10, size)
    return f"-pbkdf2{scheme}-{derived.hex()},{SALT},10"


def test_a_new_hash_is_of_that_password_and_never_twice_the_same() -> None:
    first, second = hash_password("pässword"), hash_password("pässword")
    assert first != second
    assert "pässword" not in first
    for text in (first, second):
        assert PasswordHash.parse(text).matches("pässword")
        assert not PasswordHash.parse(text).matches("passwort")


@pytest.mark.parametrize(
    ("scheme", "digest"), [("", "sha1"), (":sha", "sha1"), (":sha256", "sha256")]
)
def test_hashes_of_couchdb(scheme: str, digest: str) -> None:
    hash = PasswordHash.parse(of_couchdb(scheme, digest, "relax"))
    assert hash.matches("relax")
    assert not hash.matches("Relax")
    assert not hash.matches("")


@settings(max_examples=30, deadline=None)
@given(st.text(), st.text())
def test_one_password_only(password: str, other: str) -> None:
    hash = PasswordHash.parse(quick_hash(password))
    assert hash.matches(password)
    assert hash.matches(other) is (other == password)


def test_nobody_has_a_password() -> None:
    assert not nobodys_hash().matches("")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "$2b$12$hunter2",
        "$scrypt$ln=14,r=8$x$y",
        "$scrypt$ln=0,r=8,p=1$AAAA$AAAA",
        "$scrypt$ln=14,r=0,p=1$AAAA$AAAA",
        "$scrypt$ln=14,r=8,p=0$AAAA$AAAA",
        "$scrypt$ln=99,r=8,p=1$AAAA$AAAA",
        "$scrypt$ln=20,r=8,p=1$AAAA$AAAA",
        "$scrypt$ln=14,r=8,p=99$AAAA$AAAA",
        "$scrypt$ln=14,r=8,p=1$A$AAAA",
        "$scrypt$ln=14,r=8,p=1$AAAA$AAAA\n",
        "-pbkdf2-zz,salt,10",
        "-pbkdf2-abc,salt,10",
        "-pbkdf2-ab,salt,0",
        "-pbkdf2-ab,salt,99999999999",
        "-pbkdf2:md5-ab,salt,10",
        "-hashed-ab,salt",
    ],
)
def test_a_hash_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ConfigError, match=r"edge-agent user add") as caught:
        PasswordHash.parse(text)
    assert "hunter2" not in str(caught.value)


def test_a_hash_is_not_shown() -> None:
    text = quick_hash("x")
    shown = repr(PasswordHash.parse(text))
    for part in (text, *text.split("$")[3:]):
        assert part not in shown
