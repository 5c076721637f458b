"""The read models, and what a projection of one's own is made of.

Whoever writes one imports from here and from nowhere else: modules may move, these names stay.

    from chatledger_projections import Connection, Event, MessageAppended, Projection
"""

from chatledger.domain.events import (
    Event,
    EventData,
    ForkedFrom,
    ItemAppended,
    ItemRevised,
    Message,
    MessageAppended,
    MessageErased,
    MessageRemoved,
    MessageRevised,
    SessionChanges,
    SessionCreated,
    SessionDeleted,
    SessionErased,
    SessionHeld,
    SessionReleased,
    SessionRestored,
    SessionTruncated,
    SessionUpdated,
)
from chatledger.storage.connection import Connection
from chatledger_projections.projection import Apply, Projection

__all__ = [
    "Apply",
    "Connection",
    "Event",
    "EventData",
    "ForkedFrom",
    "ItemAppended",
    "ItemRevised",
    "Message",
    "MessageAppended",
    "MessageErased",
    "MessageRemoved",
    "MessageRevised",
    "Projection",
    "SessionChanges",
    "SessionCreated",
    "SessionDeleted",
    "SessionErased",
    "SessionHeld",
    "SessionReleased",
    "SessionRestored",
    "SessionTruncated",
    "SessionUpdated",
]
