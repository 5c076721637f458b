"""Export: sessions as the JSON lines that an import reads, or every event as CloudEvents 1.0 JSON lines."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from chatledger.domain.documents import MessageDocument
from chatledger.domain.events import Message
from chatledger.domain.session import SessionState
from chatledger.domain.timestamps import format_us
from chatledger.errors import NotFound
from chatledger.ledger import event_store
from chatledger.ledger.event_store import Record
from chatledger.storage.connection import Connection
from chatledger_projections import messages, sessions

_PAGE = 1000
# An import makes sessions in the order of its file, and that is then the order of their activity.
_OF_KIND = """SELECT last_position, id FROM sessions
  WHERE tenant_id = ?1 AND hidden = 0 AND archived = %s AND last_position > ?2"""
_SESSION_IDS = f"{_OF_KIND % 0} UNION ALL {_OF_KIND % 1} ORDER BY last_position LIMIT ?3"
QUERIES = (_SESSION_IDS,)
"""What an export of a tenant runs, for the test that none of them scans a table."""

_encode = msgspec.json.Encoder().encode
_document = msgspec.json.Decoder(MessageDocument)


class _SessionHead(msgspec.Struct, omit_defaults=True):
    id: str
    user_id: str | None
    title: str | None
    traits: Raw
    created_at: str


class CloudEvent(msgspec.Struct, omit_defaults=True):
    """An event in the JSON format of CloudEvents 1.0.

    Extension attributes are lower-case letters and strings: an Integer of CloudEvents ends at 2^31.
    """

    id: str
    source: str
    type: str
    subject: str
    time: str
    data: Raw
    tenant: str
    position: str
    sessionversion: str
    payloadschema: str
    actor: str
    leaf: str
    requestid: str | None = None
    salt: str | None = None
    commitment: str | None = None
    specversion: str = "1.0"
    datacontenttype: str = "application/json"

    def encode(self) -> bytes:
        """Its line."""
        return _encode({name: value for name, value in msgspec.structs.asdict(self).items() if value is not None})


def find_session(views: Connection, tenant_id: str, session_id: str) -> SessionState:
    """The one session that is to be exported.

    Raises:
        NotFound: readers see none of that id.
    """
    state = sessions.find(views, tenant_id, session_id)
    if state is None:
        raise NotFound("session")
    return state


def session_line(views: Connection, state: SessionState) -> Iterator[tuple[int, bytes]]:
    """The line of one session, in parts."""
    return ((1, part) for part in _session_parts(views, state))


def session_lines(views: Connection, tenant_id: str) -> Iterator[tuple[int, bytes]]:
    """Parts of lines, one line a session, least recently active first, each part with the sessions begun so far.

    A session's messages come in parts, so that a long one is never in memory whole.
    """
    last, number = 0, 0
    while rows := _page_of_ids(views, tenant_id, last):
        for _, session_id in rows:
            state = sessions.find(views, tenant_id, session_id)
            if state is None:
                continue
            number += 1
            for part in _session_parts(views, state):
                yield number, part
        last = rows[-1][0]


def _page_of_ids(views: Connection, tenant_id: str, after_position: int) -> list[tuple[int, str]]:
    rows: list[tuple[Any, ...]] = views.execute(_SESSION_IDS, (tenant_id, after_position, _PAGE)).fetchall()
    return [(position, session_id) for position, session_id in rows]


def _session_parts(views: Connection, state: SessionState) -> Iterator[bytes]:
    head = _SessionHead(
        id=state.session_id,
        user_id=state.user_id,
        title=state.title,
        traits=Raw(state.traits),
        created_at=format_us(state.created_at_us),
    )
    yield _encode(head)[:-1] + b',"messages":['
    after, separator = messages.FIRST, b""
    exported: set[str] = set()
    while page := list(messages.page(views, state, after=after, limit=_PAGE)):
        documents = [_document.decode(body) for body in page]
        exported.update(document.id for document in documents)
        yield separator + b",".join(_encode(_exported(document, exported)) for document in documents)
        after, separator = documents[-1].seq, b","
    yield b"]}\n"


def _exported(document: MessageDocument, ids: set[str]) -> Message:
    """The message as an import takes it: as given, with its id and time, and without a parent that was removed."""
    fields = msgspec.structs.asdict(document)
    del fields["session_id"], fields["seq"]
    if isinstance(document.parent_id, str) and document.parent_id not in ids:
        del fields["parent_id"]
    return Message(**fields)


def event_lines(ledger_db: Connection, *, tenant_id: str | None) -> Iterator[tuple[int, bytes]]:
    """One line an event in ledger order, of one tenant or of all, each with its position."""
    source, pending = "urn:uuid:" + event_store.identity(ledger_db), event_store.pending_erasures(ledger_db)
    position = 0
    while records := event_store.read_records_after(ledger_db, position, _PAGE):
        for record in records:
            if tenant_id is None or record.event.tenant_id == tenant_id:
                yield record.event.position, _cloud_event(ledger_db, record, source, pending).encode() + b"\n"
        position = records[-1].event.position


def session_event_lines(ledger_db: Connection, tenant_id: str, session_id: str) -> Iterator[tuple[int, bytes]]:
    """One line an event of one session, which may be deleted, each with its version.

    Raises:
        NotFound: there never was such a session.
    """
    stream = event_store.find_stream(ledger_db, tenant_id, session_id)
    if stream is None:
        raise NotFound("session")
    source, pending = "urn:uuid:" + event_store.identity(ledger_db), event_store.pending_erasures(ledger_db)
    for record in event_store.read_stream(ledger_db, stream):
        yield record.event.version, _cloud_event(ledger_db, record, source, pending).encode() + b"\n"


def _cloud_event(
    ledger_db: Connection, record: Record, source: str, pending: event_store.PendingErasures
) -> CloudEvent:
    """The event, with what its leaf can be made from: the salt, or where that is erased the commitment itself."""
    shown = pending.hide(record)
    event, salt = record.event, shown.salt
    return CloudEvent(
        id=str(event.position),
        source=source,
        type=event.type,
        subject=event.session_id,
        time=format_us(event.recorded_at),
        data=Raw(b"null" if shown.payload is None else shown.payload),
        tenant=event.tenant_id,
        position=str(event.position),
        sessionversion=str(event.version),
        payloadschema=str(record.schema),
        actor=event.actor,
        requestid=event.request_id,
        leaf=record.leaf.hex(),
        salt=None if salt is None else salt.hex(),
        commitment=event_store.commitment_of(ledger_db, record).hex() if salt is None else None,
    )
