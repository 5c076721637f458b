"""Origins in the settings, and the Host and Origin headers of requests to an open service."""

import pytest

from chatledger.errors import SettingsError
from chatledger.http.origins import is_loopback, parse_origins, refusal


def test_origins_are_separated_by_commas() -> None:
    """Spaces do not count, and neither do empty parts."""
    assert parse_origins("") == ()
    assert parse_origins(" https://a.example , http://localhost:3000,,http://[::1]:8080") == (
        "https://a.example",
        "http://localhost:3000",
        "http://[::1]:8080",
    )


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "null",
        "a.example",
        "https://",
        "https://a.example/",
        "https://a.example/path",
        "https://*.a.example",
        "https://A.example",
        "https://ä.example",
        "https://user@a.example",
        "https://a.example:443",
        "http://a.example:80",
        "http://a.example:0",
        "http://a.example:65536",
        "http://a.example:0080",
        "ftp://a.example",
        "https://a.example https://b.example",
        "https://a.example\nhttps://b.example",
    ],
)
def test_what_no_browser_sends_is_refused(text: str) -> None:
    """It would never match, and nobody would know why."""
    with pytest.raises(SettingsError, match="CHATLEDGER_CORS_ORIGINS names"):
        parse_origins("https://good.example," + text)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "api.localhost:1",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.9.9.9:80",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
    ],
)
def test_names_of_this_machine(host: str) -> None:
    """With and without a port."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:8000",
        "notlocalhost",
        "10.0.0.1",
        "0.0.0.0",  # noqa: S104
        "[::]",
        "[2001:db8::1]",
        "[::1",
        "::1",
        "127.0.0.1:8000:8000",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "localhost, evil.example",
        "2130706433",
        "0x7f000001",
        "127.1",
        "localhost\n",
    ],
)
def test_other_names(host: str) -> None:
    """Also such as begin or end like ours, and forms of the address that no browser sends."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("hosts", "origins"),
    [
        (["127.0.0.1:8000"], []),
        (["127.0.0.1:8000"], ["http://127.0.0.1:8000"]),
        (["localhost:8000"], ["http://localhost:8000"]),
        (["localhost:8000"], ["https://allowed.example"]),
    ],
)
def test_own_and_allowed_pages_pass(hosts: list[str], origins: list[str]) -> None:
    """And what is no page at all."""
    assert refusal(hosts, origins, scheme="http", allowed=("https://allowed.example",)) is None


@pytest.mark.parametrize(
    ("hosts", "origins"),
    [
        ([], []),
        (["evil.example"], []),
        (["a." * 130 + "localhost"], []),  # longer than a name can be
        (["evil.example"], ["http://evil.example"]),
        (["127.0.0.1:8000", "evil.example"], []),
        (["127.0.0.1:8000"], ["http://evil.example"]),
        (["127.0.0.1:8000"], ["null"]),
        (["127.0.0.1:8000"], [""]),
        (["127.0.0.1:8000"], ["https://127.0.0.1:8000"]),
        (["127.0.0.1:8000"], ["http://127.0.0.1:9000"]),
        (["127.0.0.1:8000"], ["http://localhost:8000"]),
        (["127.0.0.1:8000"], ["http://127.0.0.1:8000", "http://evil.example"]),
    ],
)
def test_foreign_names_and_pages_are_refused(hosts: list[str], origins: list[str]) -> None:
    """Each by itself, and beside good ones."""
    assert refusal(hosts, origins, scheme="http", allowed=("https://allowed.example",)) is not None
