"""The commitment and the leaf of an event, and the tree over the leaves: RFC 6962 section 2.1, SHA-256. Pure.

docs/ledger-format.md specifies the bytes, with test vectors.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

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
_sha256 = hashlib.sha256

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_INNER_REST = b"\x36" * (_sha256().block_size - SALT_BYTES)
_OUTER_REST = b"\x5c" * (_sha256().block_size - SALT_BYTES)


def commitment(salt: bytes, payload: bytes) -> bytes:
    """The 32 bytes that bind the tree to *payload* and reveal nothing of it once *salt* is gone.

    HMAC (RFC 2104 section 2) by hand: `hmac.new` takes half as long again, and `hmac.digest` gives the interpreter lock
    back even for a short payload: while serving that costs the writer more than the hash.
    """
    if len(salt) != SALT_BYTES:  # of an altered ledger
        return hmac.new(salt, payload, _sha256).digest()
    inner = _sha256(salt.translate(_INNER) + _INNER_REST + payload).digest()
    return _sha256(salt.translate(_OUTER) + _OUTER_REST + inner).digest()


def record_bytes(record: LeafRecord) -> bytes:
    """The record's canonical JSON (RFC 8785): the entry of a transparency log."""
    return _encode(record)


def entry_hash(entry: bytes) -> bytes:
    """The leaf of an entry: SHA-256 over 0x00 and its bytes (RFC 6962 section 2.1)."""
    return _sha256(LEAF_PREFIX + entry).digest()


def leaf_hash(record: LeafRecord) -> bytes:
    """The leaf of an event."""
    return _sha256(LEAF_PREFIX + _encode(record)).digest()


NODE_PREFIX = b"\x01"
HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""
TILE_HEIGHT = 8
"""A tile has the hashes of up to 256 neighbours (C2SP tlog-tiles)."""

ReadNode: TypeAlias = Callable[[int, int], bytes]
"""`(height, index)` gives the root of the perfect subtree over the leaves `index << height` up to
`(index + 1) << height`, exclusive."""


class TileHash(NamedTuple):
    """A perfect subtree of `256 ** level` leaves that has become complete: hash number `entry` of its level."""

    level: int
    entry: int
    hash: bytes


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbouring perfect subtrees, the largest first."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


class Frontier:
    """What an appender keeps of a tree: its size and the roots of its perfect subtrees, the largest first."""

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)

    @classmethod
    def of(cls, size: int, stored: bytes) -> "Frontier":
        """The one that `encode` stored.

        Raises:
            ValueError: a tree of *size* leaves has another number of perfect subtrees.
        """
        if len(stored) != HASH_BYTES * size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} perfect subtrees")
        return cls(size, (stored[at : at + HASH_BYTES] for at in range(0, len(stored), HASH_BYTES)))

    def encode(self) -> bytes:
        """Its hashes in a row, 32 bytes each."""
        return b"".join(self.hashes)

    def copy(self) -> "Frontier":
        """Another one of the same tree."""
        return Frontier(self.size, self.hashes)

    def root(self) -> bytes:
        """The root hash of the tree."""
        return fold(self.hashes)

    def append(self, leaves: Iterable[bytes]) -> list[TileHash]:
        """Add *leaves*; one inner hash for each on average. Returns the hashes that tiles get by it, level by level."""
        completed: list[TileHash] = []
        row, first, height = list(leaves), self.size, 0
        self.size += len(row)
        waiting: list[bytes] = []
        while row:  # the new subtrees of 2^height leaves, side by side, of which *first* is the number of the first
            if first & 1:
                row.insert(0, self.hashes.pop())
            if len(row) & 1:
                waiting.append(row[-1])
            first >>= 1
            height += 1
            # Not node_hash, and row by row: this takes half the time.
            pairs = iter(row)
            row = [_sha256(NODE_PREFIX + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
            if height % TILE_HEIGHT == 0:
                completed += [TileHash(height // TILE_HEIGHT, number, found) for number, found in enumerate(row, first)]
        self.hashes += reversed(waiting)
        return completed


def _split(size: int) -> int:
    """The largest power of two below *size*, which is at least 2: where RFC 6962 splits a tree."""
    return 1 << (size - 1).bit_length() - 1


def range_root(read: ReadNode, start: int, end: int) -> bytes:
    """The root over the leaves *start* to *end*, exclusive, of which *start* begins a subtree of the split."""
    hashes = []
    while start < end:
        height = (end - start).bit_length() - 1
        hashes.append(read(height, start >> height))
        start += 1 << height
    return fold(hashes)


def inclusion_proof(read: ReadNode, index: int, size: int) -> list[bytes]:
    """The audit path of leaf *index* in the tree of *size* leaves, from the leaf up (RFC 6962 section 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(read, middle, end))
            end = middle
        else:
            path.append(range_root(read, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(read: ReadNode, first: int, second: int) -> list[bytes]:
    """That the tree of *second* leaves continues the one of *first* (RFC 6962 section 2.1.2)."""
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} leaves does not continue one of {first}")
    if first in (0, second):
        return []
    proof: list[bytes] = []
    start, end, whole = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(range_root(read, middle, end))
            end = middle
        else:
            proof.append(range_root(read, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(range_root(read, start, end))
    return proof[::-1]


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to (RFC 9162 section 2.1.3.2).

    Raises:
        ValueError: the path is none of leaf *index* in a tree of *size*.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    found, place, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            raise ValueError("the path is too long")
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        place >>= 1
        last >>= 1
    if last:
        raise ValueError("the path is too short")
    return found


def roots_of_consistency(first: int, second: int, first_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of both trees that a consistency proof leads to (RFC 9162 section 2.1.4.2).

    Raises:
        ValueError: the proof is none for these sizes.
    """
    if not 0 < first < second or not proof:
        raise ValueError("a consistency proof is for two sizes, the first not 0 and the second larger")
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    place, last = first - 1, second - 1
    while place & 1:
        place >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ValueError("the proof is too long")
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        place >>= 1
        last >>= 1
    if last:
        raise ValueError("the proof is too short")
    return old, new
