"""The tree in the ledger: read, kept up with each append, built from the leaves; nodes and tiles out of it."""

from collections.abc import Sequence

from chatledger.errors import LedgerDamaged
from chatledger.ledger.merkle import HASH_BYTES, TILE_HEIGHT, Frontier, TileHash, fold, node_hash, range_root
from chatledger.storage import transactions
from chatledger.storage.connection import Connection

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
    with transactions.immediate(connection):
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
        self._rows: dict[tuple[int, int], list[list[bytes]]] = {}

    def tile(self, level: int, number: int) -> list[bytes]:
        """The hashes of a tile as far as the tree reaches: 256, fewer, or none."""
        complete = (self.size >> TILE_HEIGHT * level) - number * TILE_HASHES
        return self._read(level, number)[: max(0, complete)]

    def node(self, height: int, index: int) -> bytes:
        """The root of the perfect subtree number *index* of 2^*height* leaves.

        Raises:
            LedgerDamaged: it is not there, though the tree is said to be of that size.
        """
        level, above = divmod(height, TILE_HEIGHT)
        number, place = divmod(index, TILE_HASHES >> above)
        row = self._tile_rows(level, number)[above]
        if place >= len(row):
            raise LedgerDamaged(f"The ledger's tree has no hash {index} at height {height}.")
        return row[place]

    def root(self) -> bytes:
        """The root of the tree, by way of its tiles."""
        return range_root(self.node, 0, self.size) if self.size else fold([])

    def _tile_rows(self, level: int, number: int) -> list[list[bytes]]:
        """A tile's hashes, and above them row by row the nodes over each two, up to below its root."""
        rows = self._rows.get((level, number))
        if rows is None:
            rows = [self._read(level, number)]
            for _ in range(TILE_HEIGHT - 1):
                below = rows[-1]
                rows.append([node_hash(left, right) for left, right in zip(below[::2], below[1::2], strict=False)])
            self._rows[level, number] = rows
        return rows

    def _read(self, level: int, number: int) -> list[bytes]:
        if level == 0:
            return _leaves(self._connection, number * TILE_HASHES, (number + 1) * TILE_HASHES)
        row = self._connection.execute(_TILE, (level, number)).fetchone()
        hashes: bytes = b"" if row is None else row[0]
        return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
