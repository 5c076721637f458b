"""A session's proof bundle: its events, each with its way up to one signed tree head; made here, and checked offline.

docs/ledger-format.md specifies it.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from chatledger.errors import UnsoundProof
from chatledger.ledger import event_store, tree_store
from chatledger.ledger.event_store import Record
from chatledger.ledger.merkle import (
    SALT_BYTES,
    LeafRecord,
    commitment,
    entry_hash,
    inclusion_proof,
    record_bytes,
    root_of_inclusion,
)
from chatledger.proofs.signed_heads import Head, Signer, Verifier
from chatledger.storage.connection import Connection

FORMAT: Final = "chatledger-bundle-v1"


class ProvenEvent(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The record of an event, what it commits to, and its audit path.

    `payload` is the stored text and `salt` hexadecimal; both are null once erased, and `commitment` stands for them.
    """

    actor: str
    commitment: str
    payload: str | None
    position: int
    proof: list[str]
    recorded_at: int
    request_id: str | None
    salt: str | None
    schema: int
    session: str
    tenant: str
    type: str
    version: int

    def record(self) -> LeafRecord:
        """What the tree says of it."""
        return LeafRecord(
            actor=self.actor,
            commitment=self.commitment,
            position=self.position,
            recorded_at=self.recorded_at,
            request_id=self.request_id,
            schema=self.schema,
            session=self.session,
            tenant=self.tenant,
            type=self.type,
            version=self.version,
        )


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that somebody needs to check a session without the ledger and without us."""

    format: Literal["chatledger-bundle-v1"]
    public_key: str
    checkpoint: str
    events: list[ProvenEvent]


class _Problem(msgspec.Struct, frozen=True):
    """The members of RFC 9457 by which an error is known that was saved in place of a bundle."""

    type: str
    title: str
    detail: str = ""


_decode = msgspec.json.Decoder(Bundle).decode


def make(ledger_db: Connection, records: Sequence[Record], signer: Signer) -> bytes:
    """The bundle of one session's *records*, under the head that the ledger has in the caller's snapshot."""
    frontier = tree_store.read(ledger_db)
    nodes = tree_store.Nodes(ledger_db, frontier.size)
    pending = event_store.pending_erasures(ledger_db)
    bundle = Bundle(
        format=FORMAT,
        public_key=str(signer.verifier),
        checkpoint=signer.sign(frontier.size, frontier.root()),
        events=[],
    )
    # Event by event: 60 MiB at once would hold the interpreter, and so all appends, for half a second.
    events = (_proven(record, event_store.commitment_of(ledger_db, record), nodes, pending) for record in records)
    before, after = msgspec.json.encode(bundle).rsplit(b"[]", 1)
    return b"".join((before, b"[", b",".join([msgspec.json.encode(event) for event in events]), b"]", after))


def _proven(
    record: Record, committed: bytes, nodes: tree_store.Nodes, pending: event_store.PendingErasures
) -> ProvenEvent:
    event, record = record.event, pending.hide(record)
    path = inclusion_proof(nodes.node, event.position - 1, nodes.size)
    return ProvenEvent(
        actor=event.actor,
        commitment=committed.hex(),
        payload=None if record.payload is None else record.payload.decode(),
        position=event.position,
        proof=[b64encode(found).decode() for found in path],
        recorded_at=event.recorded_at,
        request_id=event.request_id,
        salt=None if record.salt is None else record.salt.hex(),
        schema=record.schema,
        session=event.session_id,
        tenant=event.tenant_id,
        type=event.type,
        version=event.version,
    )


class Proven(msgspec.Struct, frozen=True):
    """What a bundle shows: the session, how many events, of which so many are erased, under which head and key.

    The times are those of the first and of the last event, in µs since the epoch.
    """

    tenant: str
    session: str
    events: int
    erased: int
    first_recorded_at: int
    last_recorded_at: int
    head: Head
    public_key: str


def check(text: bytes, *, public_key: str | None = None) -> Proven:
    """Check a bundle, by itself: no ledger and no server is asked.

    Args:
        text: The bundle's JSON.
        public_key: The key that has to have signed. Without it the bundle's own is taken, which whoever made the
            bundle has chosen: compare it with one that you have from elsewhere.

    Raises:
        UnsoundProof: something in it does not hold; the message says what and where.
    """
    try:
        bundle = _decode(text)
    except msgspec.DecodeError as error:
        raise UnsoundProof(f"That is no bundle: {_problem_in(text) or error}.") from None
    if public_key is not None and public_key.strip() != bundle.public_key:
        raise UnsoundProof("The bundle was signed by another key.")
    head = Verifier.of(bundle.public_key).read(bundle.checkpoint)
    if not bundle.events:
        raise UnsoundProof("The bundle has no events.")
    first = bundle.events[0]
    position = 0
    for version, event in enumerate(bundle.events, start=1):
        if (event.tenant, event.session) != (first.tenant, first.session):
            raise UnsoundProof(f"The event at position {event.position} is of another session.")
        if event.version != version:
            raise UnsoundProof(f"The event at position {event.position} has version {event.version}, not {version}.")
        if event.position <= position:
            raise UnsoundProof(f"The event at position {event.position} is out of order.")
        position = event.position
        _check_event(event, head)
    return Proven(
        tenant=first.tenant,
        session=first.session,
        events=len(bundle.events),
        erased=sum(event.payload is None for event in bundle.events),
        first_recorded_at=first.recorded_at,
        last_recorded_at=bundle.events[-1].recorded_at,
        head=head,
        public_key=bundle.public_key,
    )


def _problem_in(text: bytes) -> str | None:
    """What the server has answered instead of a bundle, where its error was saved as one."""
    try:
        found = msgspec.json.decode(text, type=_Problem)
    except msgspec.DecodeError:
        return None
    return f"it is an error that the server answered: {(found.detail or found.title)!r:.200}"


def _check_event(event: ProvenEvent, head: Head) -> None:
    where = f"The event at position {event.position}"
    try:
        if event.payload is not None and event.salt is not None:
            committed = commitment(bytes.fromhex(event.salt), event.payload.encode()).hex()
            if committed != event.commitment or len(event.salt) != 2 * SALT_BYTES:
                raise UnsoundProof(f"{where} does not have the payload that was recorded.")
        elif event.payload is not None or event.salt is not None:
            raise UnsoundProof(f"{where} has a payload without a salt, or a salt without a payload.")
        path = [b64decode(found, validate=True) for found in event.proof]
        leaf = entry_hash(record_bytes(event.record()))
        root = root_of_inclusion(leaf, event.position - 1, head.size, path)
    except ValueError as error:
        raise UnsoundProof(f"{where} has no sound proof: {error}.") from None
    if root != head.root:
        raise UnsoundProof(f"{where} is not in the tree of the signed head.")
