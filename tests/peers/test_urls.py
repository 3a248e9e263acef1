"""URLs of databases, as people write them."""

from __future__ import annotations

import pytest

from agent.errors import ConfigError
from agent.peers.http import HttpClient
from agent.peers.urls import DatabaseUrl, parse_database_url


@pytest.mark.parametrize(
    "host",
    [
        "db..example.org",
        ".example.org",
        "example.org..",
        "a" * 64,
        f"{'a' * 64}.example.org",
        ".".join(["a" * 60] * 5),
        "ex ample",
        "a\\b",
        "a%2Fb",
        "\x00",
        "[::1\\]",
    ],
)
def test_hosts_that_there_cannot_be(host: str) -> None:
    with pytest.raises(ConfigError, match=r"not a database URL: .*host") as error:
        parse_database_url(f"http://anna:secret@{host}/x")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "Db.Example.org",
        "example.org.",
        "xn--bcher-kva.example",
        "couch_1",
        "192.0.2.1",
        "[2001:db8::1]",
        "[::ffff:192.0.2.1]",
        "[fe80::1%25eth0]",
        f"{'a' * 63}.org",
    ],
)
def test_hosts_that_there_can_be(host: str) -> None:
    url, _ = parse_database_url(f"http://{host}:5984/x")
    assert str(url).lower() == f"http://{host}:5984/x".lower()


async def test_a_name_that_cannot_be_encoded_is_an_error_of_the_configuration() -> None:
    url = DatabaseUrl("http://db..example.org", "x")
    client = HttpClient(url, None, auth="auto", ca_file=None, timeout=5)
    try:
        with pytest.raises(ConfigError, match=r"db\.\.example\.org/x: there can be no host"):
            await client.request("GET", "/x")
    finally:
        await client.close()
