"""The identity provider's keys: loaded, changed, withdrawn, not to be had; from a file and over real HTTP."""

import asyncio
import datetime as dt
import ipaddress
import json
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from chatledger.auth import jwks as module
from chatledger.auth import user_tokens
from chatledger.auth.jwks import EARLY_FETCH_S, FILE_CHECK_S, JWKS_BYTES_MAX, RETRY_S
from chatledger.auth.user_tokens import TokenVerifier
from chatledger.errors import Overloaded, Unauthenticated
from chatledger.settings import Settings
from support.identity_provider import IdentityProvider, ed_key, jwks
from support.tokens import AUDIENCE, ISSUER, NO_KEY, NOW_S, PLACE, SIGNATURE, head

OLD, NEW, FORGED = ed_key("old"), ed_key("new"), ed_key("old")
CACHE_S = 300
PATIENCE_S = 30
"""How long a test waits for what has to happen; no good run comes near it."""

T = TypeVar("T")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The monotonic clock, which stands still unless a test moves it; the wall clock stands still."""
    found = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(module, "monotonic", lambda: found.s)
    monkeypatch.setattr(user_tokens, "now_us", lambda: NOW_S * 1_000_000)
    return found


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    """An identity provider that signs with `OLD`."""
    with IdentityProvider(OLD) as running:
        yield running


def verifier_of(place: str | Path) -> TokenVerifier:
    """A verifier whose keys are at *place*."""
    return TokenVerifier(
        Settings(jwks=str(place), jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwks_cache_s=CACHE_S),
    )


def run(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a test's story to its end."""
    return asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


async def refusal(verifying: Awaitable[object]) -> str:
    """Why a token is refused."""
    with pytest.raises(Unauthenticated) as caught:
        await verifying
    return str(caught.value)


async def settled(verifier: TokenVerifier) -> None:
    """Wait for the load that is under way."""
    assert verifier._keys is not None
    if verifier._keys._loading is not None:
        await verifier._keys._loading


async def arrival(provider: IdentityProvider) -> None:
    """Wait until the provider has been asked once more; the event loop goes on."""
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=PATIENCE_S)


def replace(path: Path, text: bytes | None) -> None:
    """Put a new file in place of the old one, or none."""
    if text is None:
        path.unlink()
        return
    new = path.with_suffix(".new")
    new.write_bytes(text)
    new.rename(path)


# ---------------------------------------------------------------- a file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the key `OLD`."""
    found = tmp_path / "jwks.json"
    found.write_bytes(jwks(OLD))
    return found


def test_a_changed_file_is_read_again(path: Path, clock: SimpleNamespace) -> None:
    """The new key is taken, and the old one no more, though a token of it was remembered."""

    async def story() -> None:
        verifier = verifier_of(path)
        await verifier.verify(head(OLD))
        replace(path, jwks(NEW))
        await verifier.verify(head(OLD))
        clock.s += 2 * FILE_CHECK_S
        assert await refusal(verifier.verify(head(OLD))) == NO_KEY
        await verifier.verify(head(NEW))
        assert await refusal(verifier.verify(head(OLD))) == NO_KEY
        await verifier.close()

    run(story)


def test_an_unknown_key_has_the_file_looked_at(path: Path, clock: SimpleNamespace) -> None:
    """At once, and then not before `FILE_CHECK_S` are over."""

    async def story() -> None:
        verifier = verifier_of(path)
        replace(path, jwks(OLD, NEW))
        await verifier.verify(head(NEW))
        replace(path, jwks(FORGED, ed_key("third")))
        assert await refusal(verifier.verify(head(ed_key("third")))) == NO_KEY
        clock.s += FILE_CHECK_S
        assert await refusal(verifier.verify(head(ed_key("third")))) == SIGNATURE

    run(story)


def test_a_file_that_has_not_changed_is_not_read_again(path: Path, clock: SimpleNamespace) -> None:
    """It is looked at, and the tokens stay remembered."""

    async def story() -> None:
        verifier = verifier_of(path)
        first = await verifier.verify(head(OLD))
        clock.s += FILE_CHECK_S
        await verifier.verify(head(OLD))
        await settled(verifier)
        assert await verifier.verify(head(OLD)) is first
        assert verifier._keys is not None
        assert verifier._keys._source.load() is None

    run(story)


def test_the_same_keys_in_a_new_file_change_nothing(path: Path, clock: SimpleNamespace) -> None:
    """Tokens stay remembered."""

    async def story() -> None:
        verifier = verifier_of(path)
        first = await verifier.verify(head(OLD))
        replace(path, jwks(OLD))
        os.utime(path, ns=(1, 1))
        clock.s += FILE_CHECK_S
        await verifier.verify(head(OLD))
        await settled(verifier)
        assert await verifier.verify(head(OLD)) is first

    run(story)


@pytest.mark.parametrize("text", [None, b"", b"{", jwks(), jwks(OLD, FORGED)], ids=["gone", "empty", "torn", "0", "2"])
def test_a_file_that_is_of_no_use_leaves_the_keys_as_they_were(
    path: Path, clock: SimpleNamespace, text: bytes | None
) -> None:
    """And the log says so once; a good file is taken again."""

    async def story() -> None:
        verifier = verifier_of(path)
        replace(path, text)
        clock.s += 2 * FILE_CHECK_S
        await verifier.verify(head(OLD))
        replace(path, jwks(NEW))
        clock.s += 2 * FILE_CHECK_S
        await verifier.verify(head(OLD))
        await settled(verifier)
        await verifier.verify(head(NEW))

    with capture_logs() as logs:
        run(story)
    assert [entry["event"] for entry in logs] == ["user keys loaded", "user keys not loaded", "user keys loaded"]
    assert [entry["reason"] for entry in logs if "reason" in entry] != [""]


# ---------------------------------------------------------------- a URL


def test_keys_are_fetched_once_and_kept(provider: IdentityProvider, clock: SimpleNamespace) -> None:
    """When the first token comes, and not again for `jwks_cache_s`."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        assert provider.requests == []
        for _ in range(3):
            await verifier.verify(head(OLD))
        clock.s += CACHE_S - 1
        await verifier.verify(head(OLD, jti="x"))
        assert provider.requests == ["/keys?v=1"]

    run(story)


def test_a_token_of_bad_form_fetches_nothing(provider: IdentityProvider) -> None:
    """Nor does one whose key id is none, once the keys are there."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        await refusal(verifier.verify("a.b.c"))
        await refusal(verifier.verify(head(OLD, alg="none")))
        assert provider.requests == []
        await verifier.verify(head(OLD))
        assert await refusal(verifier.verify(head(OLD, kid="https://evil.example/keys"))) == PLACE
        assert await refusal(verifier.verify(head(FORGED))) == SIGNATURE
        assert len(provider.requests) == 1

    run(story)


def test_fetching_again_does_not_hold_up_requests(provider: IdentityProvider, clock: SimpleNamespace) -> None:
    """They go on with the keys of before until the new ones are there, remembered tokens and others."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        await verifier.verify(head(OLD))
        await arrival(provider)
        provider.gate.clear()
        provider.rotate(NEW)
        clock.s += CACHE_S
        await verifier.verify(head(OLD))
        await arrival(provider)
        await verifier.verify(head(OLD))
        await verifier.verify(head(OLD, jti="x"))
        provider.gate.set()
        await settled(verifier)
        assert await refusal(verifier.verify(head(OLD))) == NO_KEY
        await verifier.verify(head(NEW))

    run(story)


def test_keys_that_nobody_asked_for_in_long_are_not_used_before_a_fetch(
    provider: IdentityProvider, clock: SimpleNamespace
) -> None:
    """They may have been withdrawn meanwhile."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        await verifier.verify(head(OLD))
        provider.rotate(NEW)
        clock.s += 2 * CACHE_S
        assert await refusal(verifier.verify(head(OLD))) == NO_KEY

    run(story)


def test_an_unknown_key_has_the_keys_fetched_early_but_seldom(
    provider: IdentityProvider, clock: SimpleNamespace
) -> None:
    """A new key works at once; whoever makes key ids up has the provider asked once in `EARLY_FETCH_S`."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        await verifier.verify(head(OLD))
        provider.rotate(OLD, NEW)
        await verifier.verify(head(NEW))
        assert len(provider.requests) == 2
        for number in range(20):
            assert await refusal(verifier.verify(head(OLD, kid=f"made-up-{number}"))) == NO_KEY
        clock.s += EARLY_FETCH_S - 1
        assert await refusal(verifier.verify(head(OLD, kid="made-up"))) == NO_KEY
        assert len(provider.requests) == 2
        clock.s += 1
        assert await refusal(verifier.verify(head(OLD, kid="made-up"))) == NO_KEY
        assert len(provider.requests) == 3

    run(story)


def test_there_is_one_fetch_at_a_time(provider: IdentityProvider) -> None:
    """However many wait for it, for keys at all or for an unknown one; the event loop goes on meanwhile."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        provider.gate.clear()
        waiting = [asyncio.create_task(verifier.verify(head(OLD, jti=str(number)))) for number in range(50)]
        await arrival(provider)
        assert not any(task.done() for task in waiting)
        provider.gate.set()
        await asyncio.gather(*waiting)
        assert len(provider.requests) == 1
        provider.gate.clear()
        provider.rotate(NEW)
        early = [asyncio.create_task(verifier.verify(head(NEW, jti=str(number)))) for number in range(50)]
        await arrival(provider)
        provider.gate.set()
        await asyncio.gather(*early)
        assert len(provider.requests) == 2

    run(story)


@pytest.mark.parametrize("early", [False, True], ids=["first", "early"])
def test_a_request_that_is_given_up_stops_no_fetch(provider: IdentityProvider, *, early: bool) -> None:
    """The others still get its keys."""

    async def story() -> None:
        verifier, key = verifier_of(provider.url), OLD
        if early:
            await verifier.verify(head(OLD))
            await arrival(provider)
            provider.rotate(NEW)
            key = NEW
        provider.gate.clear()
        gone, patient = (asyncio.create_task(verifier.verify(head(key, jti=name))) for name in "ab")
        await arrival(provider)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        provider.gate.set()
        await patient
        assert len(provider.requests) == 1 + early

    run(story)


def test_the_last_good_keys_are_used_while_the_provider_is_down(
    provider: IdentityProvider, clock: SimpleNamespace
) -> None:
    """For as long as that lasts, without waiting for it; it is asked again every `RETRY_S`."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        await verifier.verify(head(OLD))
        provider.status = 500
        clock.s += 2 * CACHE_S
        await verifier.verify(head(OLD))
        assert len(provider.requests) == 2
        clock.s += RETRY_S - 1
        await verifier.verify(head(OLD, jti="x"))
        await settled(verifier)
        assert len(provider.requests) == 2
        clock.s += 1
        await verifier.verify(head(OLD))
        await settled(verifier)
        assert len(provider.requests) == 3
        clock.s += 10 * CACHE_S
        provider.gate.clear()
        await verifier.verify(head(OLD, jti="y"))
        provider.status = 200
        provider.rotate(NEW)
        provider.gate.set()
        await settled(verifier)
        assert await refusal(verifier.verify(head(OLD))) == NO_KEY
        await verifier.verify(head(NEW))
        provider.rotate(OLD)
        clock.s += 2 * CACHE_S
        assert await refusal(verifier.verify(head(NEW))) == NO_KEY

    with capture_logs() as logs:
        run(story)
    said = ["user keys loaded", "user keys not loaded", "user keys loaded", "user keys loaded"]
    assert [entry["event"] for entry in logs] == said
    assert logs[1]["reason"] == "was answered with status 500"


def test_without_any_keys_the_service_asks_for_patience(provider: IdentityProvider, clock: SimpleNamespace) -> None:
    """It is no fault of the token; the provider is asked again after `RETRY_S` only, and then all is well."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        provider.status = 503
        for _ in range(3):
            with pytest.raises(Overloaded, match="The identity provider's keys cannot be fetched") as caught:
                await verifier.verify(head(OLD))
            assert caught.value.retry_after_s == 5
        assert len(provider.requests) == 1
        provider.status = 200
        clock.s += RETRY_S
        await verifier.verify(head(OLD))

    run(story)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": 404}, "was answered with status 404"),
        ({"status": 204}, "was answered with status 204"),
        ({"body": b""}, "Expecting value"),
        ({"body": b"<html>"}, "Expecting value"),
        ({"body": jwks()}, "has no usable key"),
        ({"body": jwks(OLD, FORGED)}, "has two keys of the same id and algorithm"),
        ({"body": jwks(OLD) + b" " * JWKS_BYTES_MAX}, "is larger than 262144 bytes"),
        ({"body": json.dumps({"keys": []}).encode("utf-16")}, "can't decode byte"),
        ({"headers": {"x" * 70_000: "x"}}, "got more than 65536 bytes when reading header line"),
        ({"headers": {f"X-{number}": "x" for number in range(200)}}, "got more than 100 headers"),
    ],
    ids=["404", "204", "empty", "html", "no keys", "twins", "large", "utf-16", "long header", "many headers"],
)
def test_an_answer_that_is_no_key_set_is_not_used(
    provider: IdentityProvider, change: dict[str, Any], reason: str
) -> None:
    """And the log has the reason."""
    for name, value in change.items():
        setattr(provider, name, value)

    async def story() -> None:
        with pytest.raises(Overloaded):
            await verifier_of(provider.url).verify(head(OLD))

    with capture_logs() as logs:
        run(story)
    assert len(logs) == 1
    assert reason in logs[0]["reason"]


def test_no_more_is_read_than_a_key_set_may_have(provider: IdentityProvider, path: Path) -> None:
    """Memory is bounded, however much there is to read."""
    provider.body = b" " * (16 * JWKS_BYTES_MAX)
    path.write_bytes(provider.body)
    sources = [verifier._keys._source for verifier in (verifier_of(provider.url),) if verifier._keys is not None]
    for source in [*sources, module.FileSource(path)]:
        text = source.load()
        assert text is not None
        assert JWKS_BYTES_MAX < len(text) < 2 * JWKS_BYTES_MAX


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(provider: IdentityProvider, status: int) -> None:
    """Not even within the provider."""
    with IdentityProvider(OLD) as other:
        provider.status = status
        provider.headers = {"Location": other.url}

        async def story() -> None:
            with pytest.raises(Overloaded):
                await verifier_of(provider.url).verify(head(OLD))

        run(story)
        assert other.requests == []


def test_no_proxy_is_asked(provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says: the keys come from where the setting says."""
    with IdentityProvider(NEW) as other:
        monkeypatch.setenv("http_proxy", other.url)
        run(lambda: verifier_of(provider.url).verify(head(OLD)))
        assert other.requests == []


def test_a_provider_that_drips_is_given_up(provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each byte comes within the timeout: the timeout is for the whole answer."""
    monkeypatch.setattr(module, "FETCH_TIMEOUT_S", 0.25)
    provider.body = jwks(OLD)
    provider.drip_s = 0.02
    assert len(provider.body) * provider.drip_s > 2

    async def story() -> None:
        with pytest.raises(Overloaded):
            await verifier_of(provider.url).verify(head(OLD))

    run(story)


def test_a_provider_that_says_nothing_is_given_up(provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the timeout."""
    monkeypatch.setattr(module, "FETCH_TIMEOUT_S", 0.25)
    provider.gate.clear()

    async def story() -> None:
        with pytest.raises(Overloaded):
            await verifier_of(provider.url).verify(head(OLD))

    run(story)


def test_a_provider_that_is_not_there_is_no_fault() -> None:
    """Nobody listens on the port."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/keys"

        async def story() -> None:
            verifier = verifier_of(url)
            with pytest.raises(Overloaded):
                await verifier.verify(head(OLD))
            await verifier.close()

        run(story)


def test_closing_waits_for_no_answer(provider: IdentityProvider) -> None:
    """A stop of the service does not depend on the provider."""

    async def story() -> None:
        verifier = verifier_of(provider.url)
        provider.gate.clear()
        waiting = asyncio.create_task(verifier.verify(head(OLD)))
        await arrival(provider)
        await verifier.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        provider.gate.set()

    run(story)


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key, signed by itself."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + made.public_bytes(Encoding.PEM))
    return path


def test_keys_are_fetched_over_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a server whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with IdentityProvider(OLD, certificate=certificate) as provider:
        run(lambda: verifier_of(provider.url).verify(head(OLD)))


def test_a_server_that_is_not_trusted_is_not_believed(certificate: Path) -> None:
    """Its keys could be anybody's."""
    with IdentityProvider(OLD, certificate=certificate) as provider:

        async def story() -> None:
            with pytest.raises(Overloaded):
                await verifier_of(provider.url).verify(head(OLD))

        with capture_logs() as logs:
            run(story)
        assert "CERTIFICATE_VERIFY_FAILED" in logs[0]["reason"]
        assert provider.requests == []


def test_a_dripping_tls_answer_is_given_up(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(module, "FETCH_TIMEOUT_S", 0.5)
    with IdentityProvider(OLD, certificate=certificate) as provider:
        provider.drip_s = 0.02

        async def story() -> None:
            with pytest.raises(Overloaded):
                await verifier_of(provider.url).verify(head(OLD))

        run(story)
        assert provider.requests != []
