"""Reading the whole ledger again: that every event is what was recorded, where it was recorded, and that none is gone.

Payload -> commitment -> record -> leaf -> tree -> stored head, in the order of positions, so that the first event that
is wrong is the one that is named. What only an earlier head, kept elsewhere, can show: that somebody who owns the file
and knows the code has not recorded another history from some position on and made everything behind it fit.
"""

from collections.abc import Callable, Iterator
from typing import Any

from chatledger.domain.events import SESSION_ERASED, MessageErased, UnknownEvent, decode_payload, is_erased
from chatledger.errors import LedgerDamaged
from chatledger.ledger import event_store, tree_store
from chatledger.ledger.merkle import (
    SALT_BYTES,
    Frontier,
    LeafRecord,
    TileHash,
    commitment,
    entry_hash,
    record_bytes,
)
from chatledger.proofs.signed_heads import Head
from chatledger.storage import ledger_file, sql_errors, transactions
from chatledger.storage.connection import Connection

BATCH_EVENTS = 5_000

_IDENTITY = "SELECT count(*) FROM ledger"
_ROWS = """SELECT e.position, e.stream, s.tenant_id, s.session_id, e.version, e.type, e.schema, e.recorded_at, e.actor,
  e.request_id, e.payload, e.salt, e.leaf
  FROM events AS e LEFT JOIN streams AS s ON s.key = e.stream WHERE e.position > ? ORDER BY e.position LIMIT ?"""
_KEPT = "SELECT commitment FROM commitments WHERE position = ?"
_ERASABLE_BY = "SELECT by FROM erasable WHERE position = ?"
_TILES = "SELECT level, number, hashes FROM tiles ORDER BY level, number"

_SINCE = {"tree": 2, "tiles": 2, "commitments": 2, "erasures": 3, "erasable": 5}
"""The tables that stand behind an event's proof, and the schema that each came with."""

Progress = Callable[[int, int], None]


def lacking(schema: int) -> list[str]:
    """What a ledger of that schema does not have yet, of all that there is to verify in one of today."""
    return [name for name, since in _SINCE.items() if schema < since]


class Verification:
    """One reading of a ledger, of whatever schema up to ours it is. `frontier` is the tree so far."""

    def __init__(self, connection: Connection) -> None:
        self.frontier = Frontier()
        self._connection = connection
        self._lacking = lacking(ledger_file.schema_of(connection))
        self._versions: dict[int, int] = {}
        self._ended: set[int] = set()
        self._tiles: list[TileHash] = []

    def run(self, *, earlier: Head | None = None, progress: Progress | None = None) -> Frontier:
        """Check everything, and that the ledger extends *earlier*, if one is given.

        Raises:
            LedgerDamaged: it is not as it must be; the message names the first position that is wrong.
        """
        total = self._check_file()
        for rows in self._batches():
            leaves = [self._check(row) for row in rows]
            if earlier is not None and self.frontier.size < earlier.size <= self.frontier.size + len(leaves):
                part = earlier.size - self.frontier.size
                self._append(leaves[:part])
                self._check_earlier(earlier)
                leaves = leaves[part:]
            self._append(leaves)
            if progress is not None:
                progress(self.frontier.size, total)
        if earlier is not None and earlier.size > self.frontier.size:
            raise LedgerDamaged(
                f"The ledger ends at position {self.frontier.size}; the earlier head has {earlier.size} events."
            )
        if earlier is not None and earlier.size == 0:
            self._same_root(earlier, Frontier())
        if "tree" not in self._lacking:
            self._check_tree()
        return self.frontier

    def _check_file(self) -> int:
        """SQLite's own check: rows against indexes, and nothing where nothing should be."""
        try:
            found = self._connection.execute("PRAGMA main.integrity_check(1)").get
            if found != "ok":
                # It comes on lines of its own, under a heading; an error is one line.
                raise LedgerDamaged(f"SQLite finds the ledger damaged: {' '.join(str(found).split())}.")
            if self._connection.execute(_IDENTITY).get != 1:
                raise LedgerDamaged("The ledger has lost its identity.")
            return int(self._connection.execute("SELECT coalesce(max(position), 0) FROM events").get)
        except sql_errors.SQLError as error:
            raise LedgerDamaged("The ledger's file is damaged.") from error

    def _batches(self) -> Iterator[list[tuple[Any, ...]]]:
        while True:
            try:
                rows: list[tuple[Any, ...]] = self._connection.execute(
                    _ROWS, (self.frontier.size, BATCH_EVENTS)
                ).fetchall()
            except (sql_errors.SQLError, UnicodeDecodeError) as error:
                raise LedgerDamaged(f"The ledger's file is damaged behind position {self.frontier.size}.") from error
            if not rows:
                return
            if rows[0][0] != self.frontier.size + 1 or rows[-1][0] != self.frontier.size + len(rows):
                expected = self.frontier.size
                for row in rows:
                    expected += 1
                    if row[0] != expected:
                        break
                raise LedgerDamaged(f"There is no event at position {expected}.")
            yield rows

    def _check(self, row: tuple[Any, ...]) -> bytes:
        """The leaf of one event, which is the one that its row has."""
        (
            position,
            stream,
            tenant,
            session,
            version,
            kind,
            schema,
            recorded_at,
            actor,
            request_id,
            payload,
            _salt,
            leaf,
        ) = row
        if tenant is None:
            raise LedgerDamaged(f"The event at position {position} belongs to no session.")
        place = f"{position} (session {session!r} of tenant {tenant!r})"
        expected = self._versions.get(stream, 0) + 1
        if version != expected:
            raise LedgerDamaged(f"The event at position {place} has version {version} where {expected} was to come.")
        if stream in self._ended:
            raise LedgerDamaged(f"The event at position {place} follows the erasure of its session.")
        self._versions[stream] = version
        if kind == SESSION_ERASED:
            self._ended.add(stream)
        committed = self._erased(row, place) if is_erased(payload) else self._committed(row, place)
        entry = record_bytes(
            LeafRecord(
                actor, committed.hex(), position, recorded_at, request_id, schema, session, tenant, kind, version
            )
        )
        if entry_hash(entry) != leaf:
            raise LedgerDamaged(f"The event at position {place} does not match its leaf.")
        return bytes(leaf)

    def _committed(self, row: tuple[Any, ...], place: str) -> bytes:
        """The commitment of an event that has its payload, which is read."""
        position, kind, schema, payload, salt = row[0], row[5], row[6], row[10], row[11]
        if salt is None or len(salt) != SALT_BYTES:
            raise LedgerDamaged(f"The salt of the event at position {place} is gone, and nobody erased it.")
        try:
            data = decode_payload(kind, schema, payload)
            payload.decode()  # members of free form are not read above, so they may be no UTF-8
        except (UnknownEvent, UnicodeDecodeError) as error:
            raise LedgerDamaged(f"The event at position {place} cannot be read: {error}.") from error
        if isinstance(data, MessageErased):
            self._check_erasable(position, place, data)
        return commitment(salt, payload)

    def _check_erasable(self, position: int, place: str, data: MessageErased) -> None:
        """The events that a `message.erased` names are those that the table of the erasable has of it."""
        for named in data.positions:
            by = self._connection.execute(_ERASABLE_BY, (named,)).get
            if not isinstance(by, int) or by > position:
                raise LedgerDamaged(f"The event at position {place} erases {named}, which the ledger does not know.")

    def _erased(self, row: tuple[Any, ...], place: str) -> bytes:
        """The commitment that is kept of an event without payload, which somebody has to have erased."""
        position, stream, kind, payload, salt = row[0], row[1], row[5], row[10], row[11]
        if payload is not None and not event_store.is_blank(payload, salt):
            raise LedgerDamaged(f"The event at position {place} cannot be read: its payload begins with a zero.")
        kept = self._kept(position)
        allowed = kind != SESSION_ERASED and event_store.may_be_erased(self._connection, stream, position)
        if (payload is None) != (salt is None) or kept is None or not allowed:
            raise LedgerDamaged(f"The payload or salt of the event at position {place} is gone, and nobody erased it.")
        return kept

    def _kept(self, position: int) -> bytes | None:
        """The commitment that was kept of an erased event's payload, if there is one."""
        if "commitments" in self._lacking:
            return None
        row = self._connection.execute(_KEPT, (position,)).fetchone()
        return None if row is None else bytes(row[0])

    def _append(self, leaves: list[bytes]) -> None:
        self._tiles += self.frontier.append(leaves)

    def _check_earlier(self, earlier: Head) -> None:
        if self.frontier.size == earlier.size:
            self._same_root(earlier, self.frontier)

    def _same_root(self, earlier: Head, now: Frontier) -> None:
        if now.root() != earlier.root:
            raise LedgerDamaged(
                f"The first {earlier.size} events are not those of the earlier head: at or before position "
                f"{earlier.size} the history is another one."
            )

    def _check_tree(self) -> None:
        """The stored tree, and its tiles, against those that came out."""
        stored = tree_store.read(self._connection)
        if stored.size != self.frontier.size or stored.hashes != self.frontier.hashes:
            raise LedgerDamaged(
                f"The stored tree of {stored.size} leaves is not that of the {self.frontier.size} events."
            )
        expected: dict[tuple[int, int], bytes] = {}
        for level, entry, found in self._tiles:
            place = (level, entry // tree_store.TILE_HASHES)
            expected[place] = expected.get(place, b"") + found
        if {(row[0], row[1]): row[2] for row in self._connection.execute(_TILES)} != expected:
            raise LedgerDamaged("The tiles of the stored tree are not those of the events.")


def verify_ledger(connection: Connection, *, earlier: Head | None = None, progress: Progress | None = None) -> Frontier:
    """Read the whole ledger on *connection*, in one snapshot, and check all of it.

    Returns:
        The tree over its leaves.

    Raises:
        LedgerDamaged: it is not as it must be, or does not extend *earlier*.
    """
    try:
        with transactions.snapshot(connection):
            return Verification(connection).run(earlier=earlier, progress=progress)
    except (sql_errors.SQLError, UnicodeDecodeError) as error:
        raise LedgerDamaged("The ledger's file is damaged.") from error
