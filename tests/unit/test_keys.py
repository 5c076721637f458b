"""API keys: their text, the ring of them, and each way in which what a request shows is refused."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from chatledger.domain import api_keys
from chatledger.domain.access import OPEN, OPERATOR_SCOPES, Caller, Scope
from chatledger.domain.api_keys import KEY_PATTERN, KeyRing, check_text, digest_of, id_of, new_text
from chatledger.domain.events import KEYS_SESSION, SYSTEM_TENANT, Event, EventData, KeyCreated, KeyRevoked, type_of
from chatledger.domain.timestamps import format_us, now_us
from chatledger.errors import Forbidden, Unauthenticated
from chatledger.http.access_hook import Doors
from chatledger.http.request import Call
from chatledger.settings import Settings

NOW_US = now_us()
HOUR_US = 3_600_000_000

FORM = "This does not have the form of a key: `clk_`, 12 characters, `_`, 49 characters."
CHECKSUM = "The key has a typing error: its checksum is wrong."
UNKNOWN = "The key is not known."
REVOKED = "The key was revoked."
EXPIRED = "The key has expired."
NOTHING = "This needs a credential: Authorization: Bearer <key or token>."
SCHEME = "The authentication scheme has to be Bearer."
NO_KEY = "The credential is no key."


def event(data: EventData, version: int, actor: str = "cli") -> Event:
    """An event of the keys' stream."""
    return Event(
        position=version,
        stream=1,
        tenant_id=SYSTEM_TENANT,
        session_id=KEYS_SESSION,
        version=version,
        type=type_of(data),
        recorded_at=NOW_US,
        actor=actor,
        request_id=None,
        data=data,
    )


def created(text: str, **changes: Any) -> KeyCreated:
    """That the key *text* was made, of tenant `acme` if nothing else is said."""
    said: dict[str, Any] = {"scopes": ("read", "write"), "tenant_id": "acme", **changes}
    return KeyCreated(key_id=id_of(text), sha256=digest_of(text).hex(), **said)


GOOD, OTHER, REVOKED_KEY, EXPIRED_KEY, OPERATORS, NEVER_MADE = (new_text() for _ in range(6))
RING = KeyRing().after(
    event(data, version)
    for version, data in enumerate(
        (
            created(GOOD),
            created(OTHER),
            created(REVOKED_KEY),
            created(EXPIRED_KEY, expires_at=format_us(NOW_US)),
            created(OPERATORS, scopes=(), tenant_id=None),
            KeyRevoked(id_of(REVOKED_KEY)),
        ),
        start=1,
    )
)


def at(place: int, text: str = GOOD) -> str:
    """*text* with another character at *place*."""
    new = next(character for character in "Ab7" if character != text[place])
    return text[:place] + new + text[place + 1 :]


def swapped(text: str) -> str:
    """*text* with two neighbours the wrong way round."""
    place = next(n for n in range(20, 40) if text[n] != text[n + 1])
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def other_case(text: str) -> str:
    """*text* with one letter of the other case."""
    place = next(n for n in range(20, 60) if text[n].isalpha())
    return text[:place] + text[place].swapcase() + text[place + 1 :]


def with_checksum(head: str) -> str:
    """*head* with the checksum that it has to have."""
    return head + api_keys._checksum(head)


def foreign_secret() -> str:
    """The id of a good key before the secret of another one, with a good checksum."""
    return with_checksum(GOOD[:17] + OTHER[17:-6])


REFUSED_TEXTS = {
    "nothing": ("", FORM),
    "the prefix alone": ("clk_", FORM),
    "its id": (id_of(GOOD), FORM),
    "without its checksum": (GOOD[:-6], FORM),
    "cut by one": (GOOD[:-1], FORM),
    "cut in the middle": (GOOD[:40], FORM),
    "without its first character": (GOOD[1:], FORM),
    "one character more": (GOOD + "0", FORM),
    "twice": (GOOD + GOOD, FORM),
    "the prefix in capitals": ("CLK_" + GOOD[4:], FORM),
    "the prefix of the local credential": ("cll_" + GOOD[4:], FORM),
    "another prefix": ("sk-_" + GOOD[4:], FORM),
    "no separator": (GOOD[:16] + "0" + GOOD[17:], FORM),
    "a dash for the separator": (GOOD[:16] + "-" + GOOD[17:], FORM),
    "a dash in the secret": (GOOD[:30] + "-" + GOOD[31:], FORM),
    "a plus sign in the secret": (GOOD[:30] + "+" + GOOD[31:], FORM),
    "a space before": (" " + GOOD, FORM),
    "a space behind": (GOOD + " ", FORM),
    "a space within": (GOOD[:30] + " " + GOOD[31:], FORM),
    "a line end behind": (GOOD + "\n", FORM),
    "a tab behind": (GOOD + "\t", FORM),
    "NUL behind": (GOOD + "\0", FORM),
    "in quotes": (f'"{GOOD}"', FORM),
    "in angle brackets": (f"<{GOOD}>", FORM),
    "a Cyrillic с in the prefix": ("с" + GOOD[1:], FORM),  # noqa: RUF001  # it is what is tested
    "a digit of another script": (GOOD[:30] + "٣" + GOOD[31:], FORM),
    "a letter of full width": (GOOD[:30] + "\uff21" + GOOD[31:], FORM),
    "a space without width": (GOOD[:30] + "\u200b" + GOOD[30:], FORM),
    "half of a surrogate pair": (GOOD[:30] + "\ud800" + GOOD[31:], FORM),
    "a wrong first character of the id": (at(4), CHECKSUM),
    "a wrong last character of the id": (at(15), CHECKSUM),
    "a wrong first character of the secret": (at(17), CHECKSUM),
    "a wrong character in the middle": (at(40), CHECKSUM),
    "a wrong last character of the secret": (at(59), CHECKSUM),
    "a wrong first character of the checksum": (at(60), CHECKSUM),
    "a wrong last character of the checksum": (at(65), CHECKSUM),
    "two characters the wrong way round": (swapped(GOOD), CHECKSUM),
    "a letter of the wrong case": (other_case(GOOD), CHECKSUM),
    "the checksum of another key": (GOOD[:-6] + OTHER[-6:], CHECKSUM),
    "never made": (NEVER_MADE, UNKNOWN),
    "the id of one and the secret of another": (foreign_secret(), UNKNOWN),
    "another secret": (with_checksum(at(30)[:-6]), UNKNOWN),
    "revoked": (REVOKED_KEY, REVOKED),
    "revoked, with another secret": (with_checksum(at(30, REVOKED_KEY)[:-6]), UNKNOWN),
    "expired this very moment": (EXPIRED_KEY, EXPIRED),
    "expired, with another secret": (with_checksum(at(30, EXPIRED_KEY)[:-6]), UNKNOWN),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED_TEXTS.values(), ids=REFUSED_TEXTS)
def test_a_bad_key_is_refused_with_its_reason(text: str, reason: str) -> None:
    """The reason helps whoever has mistyped, and says nothing of keys that the caller does not have."""
    with pytest.raises(Unauthenticated) as refused:
        RING.caller_of(text, now_us=NOW_US)
    assert str(refused.value) == reason
    assert GOOD[17:] not in str(refused.value)


def test_there_are_enough_of_them() -> None:
    """With those of headers, below."""
    assert len(REFUSED_TEXTS) + len(REFUSED_HEADERS) >= 60
    assert len({text for text, _ in REFUSED_TEXTS.values()}) == len(REFUSED_TEXTS)


def test_a_good_key_says_who_is_calling() -> None:
    """Its tenant and scopes; an operator's has no tenant. Neither says its secret."""
    assert RING.caller_of(GOOD, now_us=NOW_US) == Caller(
        actor=f"key:{id_of(GOOD)}",
        credential=id_of(GOOD),
        scopes=frozenset({Scope.READ, Scope.WRITE}),
        tenant_id="acme",
    )
    operator = RING.caller_of(OPERATORS, now_us=NOW_US)
    assert (operator.tenant_id, operator.scopes) == (None, OPERATOR_SCOPES)
    assert all(text[17:] not in repr(RING) for text in (GOOD, OTHER, OPERATORS))


def test_a_key_expires_at_its_time_and_not_before() -> None:
    """To the microsecond; a revoked one never comes back."""
    ring = KeyRing().after([event(created(GOOD, expires_at=format_us(NOW_US + HOUR_US)), 1)])
    assert ring.caller_of(GOOD, now_us=NOW_US + HOUR_US - 1).tenant_id == "acme"
    with pytest.raises(Unauthenticated, match="expired"):
        ring.caller_of(GOOD, now_us=NOW_US + HOUR_US)
    revoked = ring.after([event(KeyRevoked(id_of(GOOD)), 2, actor="key:k_admin")])
    assert (revoked.keys[id_of(GOOD)].revoked_by, revoked.keys[id_of(GOOD)].is_active(0)) == ("key:k_admin", False)
    assert ring.keys[id_of(GOOD)].is_active(NOW_US)  # the ring of before is as it was


def test_new_keys_have_the_form_and_differ() -> None:
    """By which scanners of secrets find them, and which no part of a longer word has."""
    made = {new_text() for _ in range(500)}
    assert len(made) == len({id_of(text) for text in made}) == 500
    for text in made:
        check_text(text)
        assert re.fullmatch(KEY_PATTERN, text)
        assert re.search(KEY_PATTERN, f"the key is {text}.")
        assert digest_of(text) == hashlib.sha256(text.encode()).digest()


def test_each_single_typing_error_is_seen() -> None:
    """At every place, whichever character it is: a CRC-32 sees all errors within 32 bits."""
    for place in range(len(GOOD)):
        for character in "0aZ_":
            if character != GOOD[place]:
                with pytest.raises(Unauthenticated):
                    check_text(GOOD[:place] + character + GOOD[place + 1 :])


@pytest.mark.parametrize("text", [GOOD, NEVER_MADE, foreign_secret()], ids=["good", "unknown", "wrong secret"])
def test_digests_are_compared_in_constant_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no such key, so that its absence takes as long."""
    compared: list[int] = []
    compare = hmac.compare_digest

    def watched(first: Any, second: Any) -> bool:
        compared.append(len(first))
        return compare(first, second)

    monkeypatch.setattr(api_keys.hmac, "compare_digest", watched)
    try:
        RING.caller_of(text, now_us=NOW_US)
    except Unauthenticated:
        assert text != GOOD
    assert compared == [6, 32]


# ---------------------------------------------------------------- what stands in the header


def doors_of(ring: KeyRing) -> Doors:
    """The doors of a service that has these keys."""
    writer: Any = SimpleNamespace(keys=ring, put=lambda _: None)
    return Doors(Settings(database_path=":memory:"), writer, used_at_us={})


def shown(*values: bytes, needed: Scope | None = Scope.READ) -> Call:
    """A request with these Authorization headers, to a route that needs a scope."""
    scope: Any = {
        "type": "http",
        "headers": [(b"authorization", value) for value in values],
        "route_handler": SimpleNamespace(opt={"access": needed}),
        "state": {},
    }
    return Call(scope)


def admitted(doors: Doors, request: Call) -> Caller | None:
    """Whoever comes in."""
    asyncio.run(doors.admit(request))
    caller: Caller | None = request.scope["state"].get("caller")
    return caller


def bearer(text: str) -> bytes:
    """The header of *text*."""
    return b"Bearer " + text.encode()


REFUSED_HEADERS: dict[str, tuple[Callable[[], tuple[bytes, ...]], str]] = {
    "no header": (lambda: (), NOTHING),
    "an empty header": (lambda: (b"",), SCHEME),
    "the key alone": (lambda: (GOOD.encode(),), SCHEME),
    "the scheme alone": (lambda: (b"Bearer",), NO_KEY),
    "the scheme and a space": (lambda: (b"Bearer ",), NO_KEY),
    "Basic": (lambda: (b"Basic " + GOOD.encode(),), SCHEME),
    "Token": (lambda: (b"Token " + GOOD.encode(),), SCHEME),
    "ApiKey": (lambda: (b"ApiKey " + GOOD.encode(),), SCHEME),
    "a tab behind the scheme": (lambda: (b"Bearer\t" + GOOD.encode(),), SCHEME),
    "a colon behind the scheme": (lambda: (b"Bearer: " + GOOD.encode(),), SCHEME),
    "two keys in one header": (lambda: (bearer(f"{GOOD} {OTHER}"),), FORM),
    "two keys and a comma": (lambda: (bearer(f"{GOOD}, {OTHER}"),), FORM),
    "two headers": (lambda: (bearer(GOOD), bearer(OTHER)), FORM),
    "the same header twice": (lambda: (bearer(GOOD), bearer(GOOD)), FORM),
    "a bad header before a good one": (lambda: (b"Basic Zm9vOmJhcg==", bearer(GOOD)), SCHEME),
    "a good header before a bad one": (lambda: (bearer(GOOD), b"Basic Zm9vOmJhcg=="), FORM),
    "a parameter behind the key": (lambda: (bearer(f"{GOOD};tenant=acme"),), FORM),
    "a byte of Latin-1": (lambda: (b"Bearer " + GOOD[:-1].encode() + b"\xe9",), FORM),
    "a byte of Latin-1 alone": (lambda: (b"Bearer \xe9",), NO_KEY),
    "what looks like a token": (lambda: (b"Bearer e30.e30.e30",), NO_KEY),
    "the beginning of the local credential": (lambda: (b"Bearer cll_",), NO_KEY),
    "another local credential": (lambda: (b"Bearer cll_" + b"A" * 43,), NO_KEY),
}


@pytest.mark.parametrize(("headers", "reason"), REFUSED_HEADERS.values(), ids=REFUSED_HEADERS)
def test_a_bad_header_is_refused_with_its_reason(headers: Callable[[], tuple[bytes, ...]], reason: str) -> None:
    """Two credentials are none: whichever one a proxy looked at, it may have been the other one."""
    with pytest.raises(Unauthenticated) as refused:
        admitted(doors_of(RING), shown(*headers()))
    assert str(refused.value) == reason


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"Bearer   "])
def test_the_scheme_is_read_as_rfc_9110_says(scheme: bytes) -> None:
    """In letters of any case, with one space or more behind it (section 11.4)."""
    doors = doors_of(RING)
    caller = admitted(doors, shown(scheme + GOOD.encode()))
    assert caller is not None
    assert (caller.credential, list(doors.used_at_us)) == (id_of(GOOD), [id_of(GOOD)])


def test_only_who_gets_in_has_used_a_key() -> None:
    """A revoked key and one with a wrong secret leave no trace that would look like a use."""
    doors = doors_of(RING)
    for text in (REVOKED_KEY, EXPIRED_KEY, NEVER_MADE, foreign_secret()):
        with pytest.raises(Unauthenticated):
            admitted(doors, shown(bearer(text)))
    assert doors.used_at_us == {}


def test_keys_that_were_all_revoked_leave_the_doors_shut() -> None:
    """Only a service that never had a key is open; there, too, a wrong credential is refused."""
    never, revoked = KeyRing(), KeyRing().after([event(created(GOOD), 1), event(KeyRevoked(id_of(GOOD)), 2)])
    assert admitted(doors_of(never), shown()) == OPEN
    with pytest.raises(Unauthenticated):
        admitted(doors_of(never), shown(bearer(GOOD)))
    with pytest.raises(Unauthenticated):
        admitted(doors_of(revoked), shown())


def test_a_scope_that_is_missing_is_named() -> None:
    """And one that is public asks for nothing, not even where the credential is bad."""
    with pytest.raises(Forbidden) as refused:
        admitted(doors_of(RING), shown(bearer(GOOD), needed=Scope.ERASE))
    assert refused.value.members() == {"scope": "erase"}
    assert admitted(doors_of(RING), shown(bearer(NEVER_MADE), needed=None)) is None


def test_keys_are_listed_and_counted_by_tenant_without_those_of_others() -> None:
    """Each tenant's in the order of creation, with numbers that stay; an operator sees all of them."""
    owners = ["a", "b", None, "a", "a", "b"]
    ids = [f"k_{number:012}" for number in range(len(owners))]
    made = [KeyCreated(key, "00", (), owner) for key, owner in zip(ids, owners, strict=True)]
    ring = KeyRing()
    for number, data in enumerate([*made, KeyRevoked(ids[3]), KeyRevoked(ids[3])], start=1):
        ring = ring.after([event(data, number)])

    def listed(tenant: str | None, after: int = 0, limit: int = 10) -> list[tuple[int, str]]:
        return [(number, key.key_id) for number, key in ring.page(tenant, after=after, limit=limit)]

    assert listed(None) == list(enumerate(ids, start=1))
    assert listed(None, after=4, limit=1) == [(5, ids[4])]
    assert listed("a") == [(1, ids[0]), (4, ids[3]), (5, ids[4])]
    assert listed("a", after=1, limit=1) == listed("a", after=3, limit=1) == [(4, ids[3])]
    assert listed("b", after=6) == listed("nobody") == []
    assert [ring.count_active(tenant) for tenant in ("a", "b", None, "nobody")] == [2, 2, 1, 0]
