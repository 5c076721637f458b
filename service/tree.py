"""The tree in the ledger: read, kept up with each append, built from the leaves; nodes and tiles out of it."""

from collections.abc import Sequence
from functools import lru_cache

from service import database
from service.database import Connection
from service.errors import LedgerDamaged
from service.merkle import HASH_BYTES, TILE_HEIGHT, Frontier, TileHash, fold, node_hash, range_root

TILE_HASHES = 1 << TILE_HEIGHT
_BATCH_LEAVES = 10_000

_READ = "SELECT size, frontier FROM tree"
_WRITE = "UPDATE tree SET size = ?, frontier = ?"
_EXTEND = """INSERT INTO tiles VALUES (?, ?, ?)
  ON CONFLICT (level, number) DO UPDATE SET hashes = CAST(tiles.hashes || excluded.hashes AS BLOB)"""
_CLEAR = "DELETE FROM tiles"
_TILE = "SELECT hashes FROM tiles WHERE level = ? AND number = ?"
_LEAVES = "SELECT leaf FROM events WHERE position > ? AND position <= ? ORDER BY position"


def read(connection: Connection) -> Frontier:
    """The tree as it is stored.

    Raises:
        LedgerDamaged: its row is missing, or not of its form.
    """
    row = connection.execute(_READ).fetchone()
    if row is None:
        raise LedgerDamaged("The ledger's tree is missing.")
    try:
        return Frontier.of(row[0], row[1])
    except ValueError as error:
        raise LedgerDamaged(f"The ledger's tree is damaged: {error}.") from None


def extend_tiles(connection: Connection, completed: Sequence[TileHash]) -> None:
    """Add hashes to their tiles, in order. The caller holds the write transaction."""
    for level, entry, found in completed:
        connection.execute(_EXTEND, (level, entry // TILE_HASHES, found))


def open_tree(connection: Connection, size: int) -> Frontier:
    """The tree of a ledger of *size* events; made now, if the ledger is older than trees.

    Raises:
        LedgerDamaged: it is of another number of events.
    """
    stored = read(connection)
    if stored.size == 0 < size:
        return rebuild(connection)
    if stored.size != size:
        raise LedgerDamaged(f"The ledger's tree has {stored.size} leaves, and the ledger {size} events.")
    return stored


def rebuild(connection: Connection) -> Frontier:
    """Build the tree and its tiles anew from the leaves, in one transaction."""
    frontier = Frontier()
    with database.immediate(connection):
        connection.execute(_CLEAR)
        while leaves := _leaves(connection, frontier.size, frontier.size + _BATCH_LEAVES):
            extend_tiles(connection, frontier.append(leaves))
        connection.execute(_WRITE, (frontier.size, frontier.encode()))
    return frontier


def _leaves(connection: Connection, start: int, end: int) -> list[bytes]:
    """The leaves *start* to *end*, exclusive, counted from 0."""
    return [leaf for (leaf,) in connection.execute(_LEAVES, (start, end))]


class Nodes:
    """Nodes and tiles of a tree of *size* leaves, read as they are asked for; for one snapshot of the ledger."""

    def __init__(self, connection: Connection, size: int) -> None:
        self.size = size
        self._connection = connection
        self.node = lru_cache(maxsize=100_000)(self._node)
        self._hashes = lru_cache(maxsize=1_000)(self._read_tile)

    def tile(self, level: int, number: int) -> list[bytes]:
        """The hashes of a tile as far as the tree reaches: 256, fewer, or none."""
        complete = (self.size >> TILE_HEIGHT * level) - number * TILE_HASHES
        return self._hashes(level, number)[: max(0, complete)]

    def _read_tile(self, level: int, number: int) -> list[bytes]:
        if level == 0:
            return _leaves(self._connection, number * TILE_HASHES, (number + 1) * TILE_HASHES)
        row = self._connection.execute(_TILE, (level, number)).fetchone()
        hashes: bytes = b"" if row is None else row[0]
        return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]

    def _node(self, height: int, index: int) -> bytes:
        level, above = divmod(height, TILE_HEIGHT)
        if above:
            return node_hash(self.node(height - 1, 2 * index), self.node(height - 1, 2 * index + 1))
        tile = self._hashes(level, index // TILE_HASHES)
        if index % TILE_HASHES >= len(tile):
            raise LedgerDamaged(f"The ledger's tree has no hash {index} at level {level}.")
        return tile[index % TILE_HASHES]

    def root(self) -> bytes:
        """The root of the tree, by way of its tiles."""
        return range_root(self.node, 0, self.size) if self.size else fold([])
