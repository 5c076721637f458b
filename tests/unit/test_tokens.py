"""User tokens: which are taken, and why the others are refused."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatledger.auth import user_tokens
from chatledger.auth.user_tokens import TOKEN_BYTES_MAX, TokenVerifier, looks_like_token
from chatledger.domain.access import USER_SCOPES, Caller
from chatledger.errors import SettingsError, Unauthenticated
from chatledger.settings import Settings
from support.identity_provider import ed_key, jwks, number, rsa_key
from support.tokens import (
    AUDIENCE,
    EC,
    ED,
    EVIL_ED,
    EXPIRED,
    GOOD,
    ISSUER,
    LEEWAY_S,
    LONGEST,
    NO_KEY,
    NOW_S,
    PUBLISHED,
    REFUSED,
    RSA,
    SET,
    SIGNATURE,
    TABLES,
    TENANT,
    USER,
    WEAK,
    body,
    head,
    too_early,
)

ALICE = Caller(
    actor="user:alice-in-wonderland",
    credential="token",
    scopes=USER_SCOPES,
    tenant_id="acme-corporation",
    user_id="alice-in-wonderland",
)


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The wall clock, which stands still unless a test moves it."""
    clock = SimpleNamespace(now_s=NOW_S)
    monkeypatch.setattr(user_tokens, "now_us", lambda: round(clock.now_s * 1_000_000))
    return clock


def settings(path: Path, **changes: Any) -> Settings:
    """Settings of a service whose keys are in the file *path*."""
    usual = {"jwks": str(path), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_leeway_s": LEEWAY_S}
    return Settings(**{**usual, **changes})


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with good keys and useless ones."""
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_bytes(SET)
    return path


@pytest.fixture(scope="module")
def verifier(keys_file: Path) -> Iterator[TokenVerifier]:
    """One verifier for all tokens."""
    found = TokenVerifier(settings(keys_file))
    yield found
    asyncio.run(found.close())


def refusal(verifier: TokenVerifier, token: str) -> str:
    """Why *verifier* refuses *token*."""
    with pytest.raises(Unauthenticated) as caught:
        asyncio.run(verifier.verify(token))
    return str(caught.value)


def test_there_are_enough_refused_tokens() -> None:
    """No name is in two tables, and none was lost."""
    assert len(REFUSED) == sum(map(len, TABLES)) >= 200
    assert LONGEST == TOKEN_BYTES_MAX


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_token_is_refused_with_its_reason(verifier: TokenVerifier, name: str) -> None:
    """In words, with nothing of the token in them; twice, since a refusal is not remembered as anything else."""
    make, reason = REFUSED[name]
    token = make()
    assert refusal(verifier, token) == reason
    assert refusal(verifier, token) == reason
    assert not any(len(piece) > 8 and piece in reason for piece in token.split("."))


@pytest.mark.parametrize("name", GOOD)
def test_a_good_token_is_taken(verifier: TokenVerifier, name: str) -> None:
    """And says who is calling, with a user's scopes whatever else it claims; the second time from memory."""
    token = GOOD[name]()
    assert looks_like_token(token)
    first = asyncio.run(verifier.verify(token))
    assert first == ALICE
    assert asyncio.run(verifier.verify(token)) is first


@pytest.mark.parametrize("user", ["u", "u" * 255, "auth0|0123", "o'neil@example.com", '"\\'])
def test_a_user_is_whatever_the_provider_calls_it(verifier: TokenVerifier, user: str) -> None:
    """Within 255 visible characters of ASCII, as OpenID Connect has it."""
    caller = asyncio.run(verifier.verify(body(sub=user)))
    assert (caller.user_id, caller.actor) == (user, f"user:{user}")


@pytest.mark.parametrize("tenant", ["t", "T" * 128, "a.b_c:d-e"])
def test_a_tenant_is_any_id(verifier: TokenVerifier, tenant: str) -> None:
    """Of the form that ids have everywhere."""
    assert asyncio.run(verifier.verify(body(tenant_id=tenant))).tenant_id == tenant


def test_the_claims_that_name_tenant_and_user_are_settings(keys_file: Path) -> None:
    """Those of the settings count, and the usual ones no more."""
    names = {"jwt_tenant_claim": "https://example.com/org", "jwt_user_claim": "email"}
    verifier = TokenVerifier(settings(keys_file, **names))
    caller = asyncio.run(verifier.verify(body(**{"https://example.com/org": "other", "email": "bob"})))
    assert (caller.tenant_id, caller.user_id) == ("other", "bob")
    assert refusal(verifier, body(email="bob")) == TENANT
    assert refusal(verifier, body(**{"https://example.com/org": "other"})) == USER


def test_only_the_algorithms_of_the_settings_are_taken(keys_file: Path) -> None:
    """Keys of others are not used either."""
    verifier = TokenVerifier(settings(keys_file, jwt_algorithms="ES256, RS256"))
    assert asyncio.run(verifier.verify(head(EC))) == ALICE
    assert asyncio.run(verifier.verify(head(RSA))) == ALICE
    assert refusal(verifier, head(ED)) == "The token is not signed with ES256 or RS256."


def test_the_leeway_is_a_setting(keys_file: Path) -> None:
    """With 0 the end is the end."""
    verifier = TokenVerifier(settings(keys_file, jwt_leeway_s=0))
    assert asyncio.run(verifier.verify(body(exp=NOW_S + 1))) == ALICE
    assert refusal(verifier, body(exp=NOW_S)) == EXPIRED
    assert refusal(verifier, body(nbf=NOW_S + 1)) == too_early("nbf")


def test_without_keys_no_token_is_taken() -> None:
    """Not even a good one."""
    verifier = TokenVerifier(Settings())
    assert refusal(verifier, body()) == "User tokens are not accepted here."
    asyncio.run(verifier.close())


@pytest.mark.parametrize("bits", [2047, 2048])
def test_an_rsa_key_needs_2048_bits(tmp_path: Path, bits: int) -> None:
    """One bit less is one too few."""
    key, path = rsa_key("r", bits), tmp_path / "jwks.json"
    path.write_bytes(jwks(key, ED))
    verifier = TokenVerifier(settings(path))
    if bits == 2048:
        assert asyncio.run(verifier.verify(head(key))) == ALICE
    else:
        assert refusal(verifier, head(key)) == NO_KEY


def test_a_known_key_id_may_have_slashes(tmp_path: Path) -> None:
    """Providers use Base64 for ids; it is looked up as it is, and opens nothing."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(ed_key("x"), ED.jwk(kid="/a+b//c=")))
    assert asyncio.run(TokenVerifier(settings(path)).verify(head(kid="/a+b//c="))) == ALICE


# ---------------------------------------------------------------- what is remembered


def test_a_remembered_token_is_not_verified_again(verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signature is checked once, and another token's for itself."""
    token = body(jti="once")
    asyncio.run(verifier.verify(token))
    monkeypatch.setattr(verifier, "_check_signature", None)
    assert asyncio.run(verifier.verify(token)) == ALICE
    with pytest.raises(TypeError):
        asyncio.run(verifier.verify(body(jti="another")))


def test_a_remembered_token_expires(verifier: TokenVerifier, wall: SimpleNamespace) -> None:
    """At the very moment at which it would have if it had not been remembered, and leaves nothing behind."""
    token = body(exp=NOW_S + 60, jti="to expire")
    asyncio.run(verifier.verify(token))
    wall.now_s = NOW_S + 60 + LEEWAY_S - 0.000001
    assert asyncio.run(verifier.verify(token)) == ALICE
    held = len(verifier._verified)
    wall.now_s = NOW_S + 60 + LEEWAY_S
    assert refusal(verifier, token) == EXPIRED
    assert len(verifier._verified) == held - 1


def test_the_tokens_used_longest_ago_are_forgotten(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory is bounded whatever clients send."""
    monkeypatch.setattr(user_tokens, "VERIFIED_MAX", 2)
    verifier = TokenVerifier(settings(keys_file))
    one, two, three = (body(jti=str(number)) for number in range(3))
    for token in (one, two, one, three):
        asyncio.run(verifier.verify(token))
    assert [hashlib.sha256(token.encode()).digest() for token in (one, three)] == list(verifier._verified)


def test_a_token_is_remembered_whole(verifier: TokenVerifier) -> None:
    """One that differs from a remembered one in its signature alone is not that one."""
    token = head(RSA, jti="whole")
    asyncio.run(verifier.verify(token))
    assert refusal(verifier, token[:-4] + "AAAA") == SIGNATURE


# ---------------------------------------------------------------- settings that are refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"jwt_issuer": ""}, "CHATLEDGER_JWKS needs CHATLEDGER_JWT_ISSUER and"),
        ({"jwt_audience": ""}, "CHATLEDGER_JWKS needs CHATLEDGER_JWT_ISSUER and"),
        ({"jwt_algorithms": "HS256"}, "CHATLEDGER_JWT_ALGORITHMS must be some of"),
        ({"jwt_algorithms": "RS256,none"}, "CHATLEDGER_JWT_ALGORITHMS must be some of"),
        ({"jwt_algorithms": "RS256,"}, "CHATLEDGER_JWT_ALGORITHMS must be some of"),
        ({"jwt_algorithms": "rs256"}, "CHATLEDGER_JWT_ALGORITHMS must be some of"),
        ({"jwks": "http://login.example/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "http://127.0.0.1.evil.example/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "http://10.0.0.1/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "ftp://login.example/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "file:///etc/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "https:///keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "https://user:secret@login.example/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "https://login.example/keys#1"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "https://login.example:0/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "https://login.example:99999/keys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "https://login.example/k\u00e9ys"}, "CHATLEDGER_JWKS must be a file or an https URL"),
        ({"jwks": "nowhere/jwks.json"}, "The file of CHATLEDGER_JWKS cannot be read: No such file"),
        ({"jwks": "."}, "The file of CHATLEDGER_JWKS cannot be read: Is a directory"),
    ],
    ids=str,
)
def test_settings_that_cannot_tell_a_good_token_are_refused(
    keys_file: Path, changes: dict[str, str], reason: str
) -> None:
    """At the start, before any token."""
    with pytest.raises(SettingsError, match=reason):
        TokenVerifier(settings(keys_file, **changes))


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example",
        "HTTPS://login.example:8443/keys?version=2",
        "http://127.0.0.1:9/keys",
        "http://localhost/keys",
        "http://[::1]:9/keys",
    ],
)
def test_a_url_is_taken_without_asking_it(keys_file: Path, url: str) -> None:
    """A provider that is down does not keep the service from starting."""
    asyncio.run(TokenVerifier(settings(keys_file, jwks=url)).close())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "is no object"),
        (b"{}", "has no list of keys"),
        (b'{"keys":{}}', "has no list of keys"),
        (b'{"keys":[]}', "has no usable key"),
        (b'{"keys":[],"keys":[]}', "has a name twice"),
        (jwks(WEAK), "has no usable key"),
        (jwks(PUBLISHED.jwk(d=PUBLISHED.secret())), "has no usable key"),
        (jwks(ED, EVIL_ED), "has two keys of the same id and algorithm"),
        (jwks(ED) + b" " * 256 * 1024, "is larger than 262144 bytes"),
        (b'{"keys":' + b"[" * 100_000, "nests too deep"),
        (b"\xff", "can't decode byte"),
    ],
    ids=[
        "nothing",
        "list",
        "empty",
        "object",
        "no keys",
        "twice",
        "weak",
        "private",
        "twins",
        "large",
        "deep",
        "bytes",
    ],
)
def test_a_file_without_a_usable_key_is_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    """With what is wrong with it."""
    path = tmp_path / "jwks.json"
    path.write_bytes(text)
    with pytest.raises(SettingsError, match=f"The file of CHATLEDGER_JWKS is of no use: .*{reason}"):
        TokenVerifier(settings(path))


def test_two_keys_of_one_id_are_told_apart_by_their_algorithm(tmp_path: Path) -> None:
    """RFC 7517 section 4.5 allows that, while a provider changes over."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(RSA.jwk(kid="k"), ED.jwk(kid="k")))
    verifier = TokenVerifier(settings(path))
    assert asyncio.run(verifier.verify(head(RSA, kid="k"))) == ALICE
    assert asyncio.run(verifier.verify(head(ED, kid="k"))) == ALICE


@pytest.mark.parametrize("text", ["a.b.c", "eyJ.eyJ._-_"])
def test_three_parts_look_like_a_token(text: str) -> None:
    """Whatever is in them."""
    assert looks_like_token(text)


@pytest.mark.parametrize("text", ["", "clk_abc_def", "a.b", "a.b.c.d", "a.b.", "a.b.c\n", "a.b.c=", "a b.c.d", "ä.b.c"])
def test_anything_else_does_not_look_like_one(text: str) -> None:
    """Least of all an API key."""
    assert not looks_like_token(text)


def test_an_exponent_that_is_too_small_is_no_key(tmp_path: Path) -> None:
    """With e = 1 anything would be its own signature."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(RSA.jwk(e=number(1)), ED))
    assert refusal(TokenVerifier(settings(path)), head(RSA)) == NO_KEY
