"""The commitment and the leaf of an event; the tree over the leaves builds on them. Pure functions.

docs/ledger-format.md specifies the bytes, with test vectors.
"""

import hashlib
import hmac

import msgspec

SALT_BYTES = 16
LEAF_PREFIX = b"\x00"
"""RFC 6962 section 2.1: leaves and inner nodes hash under different prefixes, so neither passes for the other."""


class LeafRecord(msgspec.Struct, frozen=True, gc=False):
    """What a leaf says of its event: all but the payload, for which the commitment stands.

    The fields are in the order of their names, so that the encoding is that of RFC 8785: no white space, keys
    sorted. Its strings are ids and visible ASCII, its numbers integers below 2^53.
    """

    actor: str
    commitment: str
    position: int
    recorded_at: int
    request_id: str | None
    schema: int
    session: str
    tenant: str
    type: str
    version: int


_encode = msgspec.json.Encoder().encode


def commitment(salt: bytes, payload: bytes) -> bytes:
    """The 32 bytes that bind the tree to *payload* and reveal nothing of it once *salt* is gone."""
    # Not hmac.digest, which gives the interpreter lock back even for a short payload: while serving that costs
    # the writer more than the hash.
    return hmac.new(salt, payload, hashlib.sha256).digest()


def leaf_hash(record: LeafRecord) -> bytes:
    """The leaf of an event: SHA-256 over 0x00 and the record's canonical JSON (RFC 6962 section 2.1)."""
    return hashlib.sha256(LEAF_PREFIX + _encode(record)).digest()
