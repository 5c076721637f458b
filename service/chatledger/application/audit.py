"""The history that one caller may audit: events and proofs, bound to its tenant (rule 8)."""

import msgspec

from chatledger.application.context import Reach, take
from chatledger.domain.documents import event_document
from chatledger.errors import InvalidRequest, NotFound, TooLarge
from chatledger.ledger import event_store
from chatledger.ledger.event_store import Record
from chatledger.proofs import bundle
from chatledger.proofs.signed_heads import Signer
from chatledger.reading.readers import Readers
from chatledger.settings import Settings
from chatledger.storage.connection import Connection
from chatledger_projections import tenant_events


class EventPage(msgspec.Struct, frozen=True, gc=False):
    """Events, and the version (of a session) or position (of the ledger) of the last one of them."""

    events: list[bytes]
    last: int
    has_more: bool
    version: int = 0


class TenantAudit:
    """One caller's history: made for each request. Users have none; their tokens lack the scope."""

    def __init__(self, reach: Reach, *, settings: Settings, readers: Readers) -> None:
        self.tenant_id = reach.tenant_id
        self._settings = settings
        self._readers = readers

    async def session_events(self, session_id: str, *, after: int, limit: int) -> EventPage:
        """A session's events behind a version, deleted sessions included.

        Raises:
            NotFound: there never was such a session.
        """

        def query(_views: Connection, ledger_db: Connection) -> EventPage:
            stream = self._stream(ledger_db, session_id)
            pending = event_store.pending_erasures(ledger_db)
            records = map(
                pending.hide, event_store.read_stream(ledger_db, stream, after_version=after, limit=limit + 1)
            )
            shown, more = take(map(_document, records), limit, bytes_max=self._settings.page_bytes_max)
            version = event_store.version_of(ledger_db, stream)
            return EventPage(shown, after + len(shown), more, version)

        return await self._readers.run(query)

    async def version(self, session_id: str) -> int:
        """The version of a session's last event, deleted and erased ones included.

        Raises:
            NotFound: there never was such a session.
        """
        return await self._readers.run(
            lambda _views, ledger_db: event_store.version_of(ledger_db, self._stream(ledger_db, session_id))
        )

    async def proof(self, session_id: str, signer: Signer) -> tuple[int, bytes]:
        """A session's version and its proof bundle, deleted and erased ones included.

        Raises:
            NotFound: there never was such a session.
            TooLarge: it has more events, or more bytes of them, than go into one bundle.
        """

        def query(_views: Connection, ledger_db: Connection) -> tuple[int, bytes]:
            records = self._bundled(ledger_db, self._stream(ledger_db, session_id))
            return records[-1].event.version, bundle.make(ledger_db, records, signer)

        return await self._readers.run(query)

    def _stream(self, ledger_db: Connection, session_id: str) -> int:
        stream = event_store.find_stream(ledger_db, self.tenant_id, session_id)
        if stream is None:
            raise NotFound("session")
        return stream

    def _bundled(self, ledger_db: Connection, stream: int) -> list[Record]:
        settings, size_bytes = self._settings, 0
        records = list(event_store.read_stream(ledger_db, stream, limit=settings.proof_events_max + 1))
        if len(records) > settings.proof_events_max:
            raise InvalidRequest(
                f"The session has more than {settings.proof_events_max} events: too many for a bundle."
            )
        for record in records:
            size_bytes += len(record.payload or b"")
            if size_bytes > settings.proof_bytes_max:
                raise TooLarge("session's history", limit_bytes=settings.proof_bytes_max)
        return records

    async def events(self, *, after: int, limit: int, event_type: str | None) -> EventPage:
        """The tenant's events behind a position, in ledger order."""

        def query(views: Connection, ledger_db: Connection) -> EventPage:
            positions = tenant_events.positions(
                views, self.tenant_id, after=after, limit=limit + 1, event_type=event_type
            )
            records = map(
                event_store.pending_erasures(ledger_db).hide, event_store.read_positions(ledger_db, positions)
            )
            shown, more = take(map(_document, records), limit, bytes_max=self._settings.page_bytes_max)
            return EventPage(shown, positions[len(shown) - 1] if shown else after, more)

        return await self._readers.run(query)


def _document(record: Record) -> bytes:
    return event_document(record.event, schema=record.schema, payload=record.payload, leaf=record.leaf)
