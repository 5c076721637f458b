"""API keys: their text, and which there are, as the events of the stream `keys` of `$system` say. Pure.

A key's text is `clk_<id>_<secret><checksum>`: a prefix that scanners of leaked secrets find, 12 characters by which the
key is looked up, 43 of chance (256 bits), and the CRC-32 of all before it in 6 characters, by which a typing error is
told from a foreign key. Only the SHA-256 of the text is kept: with 256 bits of chance there is nothing to guess, so it
needs no slow hash.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from chatledger.domain.access import OPERATOR_SCOPES, Caller, Scope
from chatledger.domain.events import Event, KeyCreated, KeyRevoked
from chatledger.domain.timestamps import parse_us
from chatledger.errors import Unauthenticated

PREFIX = "clk_"
KEY_PATTERN = r"clk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}"
"""What a key looks like, for scanners of secrets."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARACTERS = 12
_SECRET_CHARACTERS = 43
_CHECKSUM_CHARACTERS = 6
_is_key = re.compile(KEY_PATTERN).fullmatch
_NO_DIGEST = bytes(hashlib.sha256().digest_size)


class Key(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A key that was created. Times are µs since the epoch; `digest` is the SHA-256 of its text.

    `caller` is whoever shows it.
    """

    key_id: str
    name: str | None
    digest: bytes
    caller: Caller
    created_at_us: int
    created_by: str
    expires_at_us: int | None
    revoked_at_us: int | None = None
    revoked_by: str | None = None

    @property
    def tenant_id(self) -> str | None:
        """Its tenant; None where it is an operator's."""
        return self.caller.tenant_id

    def is_active(self, now_us: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at_us is None and (self.expires_at_us is None or now_us < self.expires_at_us)


class KeyRing:
    """All keys that there ever were. A value: a change makes another ring.

    Keys are found by id, counted, and listed for their tenant without a look at those of other tenants.
    """

    __slots__ = ("_active", "_by_tenant", "keys")

    def __init__(self) -> None:
        self.keys: Mapping[str, Key] = {}
        """By id, in the order of their creation."""
        self._by_tenant: Mapping[str | None, Sequence[tuple[int, str]]] = {}
        self._active: Mapping[str | None, int] = {}

    def after(self, events: Iterable[Event]) -> "KeyRing":
        """The ring behind *events* of the stream, in order."""
        keys, by_tenant, active = dict(self.keys), dict(self._by_tenant), dict(self._active)
        made: dict[str | None, list[tuple[int, str]]] = {}
        for event in events:
            data = event.data
            if isinstance(data, KeyCreated):
                keys[data.key_id] = _created(event, data)
                made.setdefault(data.tenant_id, []).append((len(keys), data.key_id))
                active[data.tenant_id] = active.get(data.tenant_id, 0) + 1
            elif isinstance(data, KeyRevoked):
                key = keys[data.key_id]
                active[key.tenant_id] -= key.revoked_at_us is None
                keys[data.key_id] = msgspec.structs.replace(
                    key, revoked_at_us=event.recorded_at, revoked_by=event.actor
                )
        for tenant_id, numbered in made.items():
            by_tenant[tenant_id] = (*by_tenant.get(tenant_id, ()), *numbered)
        ring = KeyRing()
        ring.keys, ring._by_tenant, ring._active = keys, by_tenant, active
        return ring

    def count_active(self, tenant_id: str | None) -> int:
        """How many keys of a tenant, or of operators, are not revoked."""
        return self._active.get(tenant_id, 0)

    def page(self, tenant_id: str | None, *, after: int, limit: int) -> list[tuple[int, Key]]:
        """Up to *limit* keys of a tenant, or, without one, of anybody, behind number *after*, with their numbers.

        A key's number is its place in the order of creation: 1, 2, 3 …
        """
        if tenant_id is None:
            found = islice(self.keys.values(), after, after + limit)
            return list(enumerate(found, start=after + 1))
        numbered = self._by_tenant.get(tenant_id, ())
        first = bisect_right(numbered, after, key=lambda each: each[0])
        return [(number, self.keys[key_id]) for number, key_id in numbered[first : first + limit]]

    def caller_of(self, text: str, *, now_us: int) -> Caller:
        """Whoever shows the key *text*.

        Raises:
            Unauthenticated: it is none of these, or no longer good. Only who has the very key learns which.
        """
        check_text(text)
        key = self.keys.get(id_of(text))
        digest = digest_of(text)
        if not hmac.compare_digest(digest, _NO_DIGEST if key is None else key.digest) or key is None:
            raise Unauthenticated("The key is not known.")
        if key.revoked_at_us is not None:
            raise Unauthenticated("The key was revoked.")
        if not key.is_active(now_us):
            raise Unauthenticated("The key has expired.")
        return key.caller


def _created(event: Event, data: KeyCreated) -> Key:
    caller = Caller(
        actor=f"key:{data.key_id}",
        credential=data.key_id,
        scopes=OPERATOR_SCOPES if data.tenant_id is None else frozenset(map(Scope, data.scopes)),
        tenant_id=data.tenant_id,
    )
    return Key(
        key_id=data.key_id,
        name=data.name,
        digest=bytes.fromhex(data.sha256),
        caller=caller,
        created_at_us=event.recorded_at,
        created_by=event.actor,
        expires_at_us=None if data.expires_at is None else parse_us(data.expires_at),
    )


def new_text() -> str:
    """A new key."""
    chance = _random(_ID_CHARACTERS) + "_" + _random(_SECRET_CHARACTERS)
    return PREFIX + chance + _checksum(PREFIX + chance)


def check_text(text: str) -> None:
    """Refuse what cannot be a key at all.

    Raises:
        Unauthenticated: it has another form, or the checksum shows a typing error.
    """
    if _is_key(text) is None:
        raise Unauthenticated("This does not have the form of a key: `clk_`, 12 characters, `_`, 49 characters.")
    if not hmac.compare_digest(text[-_CHECKSUM_CHARACTERS:], _checksum(text[:-_CHECKSUM_CHARACTERS])):
        raise Unauthenticated("The key has a typing error: its checksum is wrong.")


def id_of(text: str) -> str:
    """The id of the key *text*, which may be shown and logged."""
    return "k_" + text[len(PREFIX) : len(PREFIX) + _ID_CHARACTERS]


def digest_of(text: str) -> bytes:
    """What is kept of the key *text*: its SHA-256."""
    return hashlib.sha256(text.encode()).digest()


def _random(characters: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(characters))


def _checksum(text: str) -> str:
    number, found = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        found = _ALPHABET[digit] + found
    return found
