"""The ledger as a transparency log: its signed head, tiles and entries, for whoever may see all of it."""

from chatledger.errors import NotFound
from chatledger.ledger import event_store, tree_store
from chatledger.ledger.merkle import record_bytes
from chatledger.proofs.signed_heads import Signer
from chatledger.reading.readers import Readers
from chatledger.storage.connection import Connection

_ENTRY_LENGTH_BYTES = 2


class TransparencyLog:
    """Reads of the whole ledger that no tenant bounds: hashes, and records without payloads."""

    def __init__(self, readers: Readers, signer: Signer, ledger_id: str) -> None:
        self.ledger_id = ledger_id
        self.signer = signer
        self._readers = readers

    @property
    def public_key(self) -> str:
        """The verifier key of its checkpoints."""
        return str(self.signer.verifier)

    async def head(self) -> tuple[int, bytes, str]:
        """Size, root and signed checkpoint."""

        def query(_views: Connection, ledger_db: Connection) -> tuple[int, bytes, str]:
            frontier = tree_store.read(ledger_db)
            root = frontier.root()
            return frontier.size, root, self.signer.sign(frontier.size, root)

        return await self._readers.run(query)

    async def tile(self, level: int, number: int, width: int) -> bytes:
        """*width* hashes of a tile, 32 bytes each.

        Raises:
            NotFound: the tree does not reach so far yet.
        """

        def query(_views: Connection, ledger_db: Connection) -> bytes:
            hashes = tree_store.Nodes(ledger_db, tree_store.read(ledger_db).size).tile(level, number)
            if len(hashes) < width:
                raise NotFound("tile")
            return b"".join(hashes[:width])

        return await self._readers.run(query)

    async def entries(self, number: int, width: int) -> bytes:
        """*width* records behind each other, each with its length in two bytes, big-endian, before it.

        Raises:
            NotFound: the ledger does not reach so far yet.
        """

        def query(_views: Connection, ledger_db: Connection) -> bytes:
            records = event_store.read_records_after(ledger_db, number * tree_store.TILE_HASHES, width)
            if len(records) < width:
                raise NotFound("tile")
            entries = []
            for record in records:
                committed = event_store.commitment_of(ledger_db, record)
                entry = record_bytes(event_store.leaf_record(record.event, record.schema, committed))
                entries.append(len(entry).to_bytes(_ENTRY_LENGTH_BYTES, "big") + entry)
            return b"".join(entries)

        return await self._readers.run(query)
