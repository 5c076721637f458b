"""Whether a session of an import file is in the ledger already, whatever has become of it since.

It is asked of the ledger and never of the views, which an import leaves behind until its end. What counts is whether
the file says anything that the ledger does not know: an export that was taken before a session went on, was renamed or
lost a message is there already, as one that was taken behind it.
"""

import msgspec
from msgspec import UNSET

from chatledger.domain.events import (
    SESSION_DELETED,
    SESSION_RESTORED,
    Event,
    Message,
    MessageAppended,
    MessageRemoved,
    SessionCreated,
    SessionUpdated,
)
from chatledger.domain.json_text import same_json
from chatledger.domain.session import SessionState, evolve
from chatledger.domain.timestamps import format_us
from chatledger.ledger import event_store
from chatledger.storage.connection import Connection
from chatledger.transfer.json_lines import Found


def missing(connection: Connection, found: Found) -> str | None:
    """What stands between *found*, whose id is taken, and the ledger's session; None where all of it is there.

    There is each title, user and set of traits that the session has had, and each message that it has or has had under
    its id, in the order of the file. A message without an id is known by what it says.

    Returns:
        The reason, to stand behind the name of the session.
    """
    stream = event_store.find_stream(connection, found.tenant_id, found.session_id)
    if stream is None:
        return "has an id that is taken"
    if event_store.is_erased(connection, stream):
        return "was erased here"
    history, deleted = _History(found), False
    for record in event_store.read_stream(connection, stream):
        history.take(record.event)
        deleted = (deleted or record.event.type == SESSION_DELETED) and record.event.type != SESSION_RESTORED
    return "was deleted here" if deleted else history.fault()


class _History:
    """How much of a file's session the events of the ledger's have said so far."""

    def __init__(self, found: Found) -> None:
        self._command = found.command
        self._wanted = list(zip(found.command.messages, found.has_ids, strict=True))
        self._ids = {message.id for message, has_id in self._wanted if has_id}
        self._state: SessionState | None = None
        self._has_head = False
        self._visible = 0
        self._matched = 0
        self._ids_there: set[str] = set()
        self._other: str | None = None

    def take(self, event: Event) -> None:
        """Look at the next event."""
        data = event.data
        if isinstance(data, MessageAppended):
            self._visible += 1
            self._look_for(event, data.message)
        elif isinstance(data, MessageRemoved):
            self._visible -= 1
        elif isinstance(data, (SessionCreated, SessionUpdated)):
            self._state = evolve(self._state, [event])
            self._has_head = self._has_head or not self._differs()

    def _look_for(self, event: Event, stored: Message) -> None:
        """Whether it is the next message that the file has. What the file leaves out may stand between."""
        if stored.id in self._ids:
            self._ids_there.add(stored.id)
        if self._matched == len(self._wanted) or self._other is not None:
            return
        message, has_id = self._wanted[self._matched]
        if has_id and message.id != stored.id:
            return
        if self._same(event, stored, message if has_id else msgspec.structs.replace(message, id=stored.id)):
            self._matched += 1
        elif has_id:
            self._other = message.id

    def _same(self, event: Event, stored: Message, message: Message) -> bool:
        if message.created_at is UNSET:  # the file does not say
            stored = msgspec.structs.replace(stored, created_at=UNSET)
        elif stored.created_at is UNSET:  # an export names the time at which it was said here
            stored = msgspec.structs.replace(stored, created_at=format_us(event.recorded_at))
        if isinstance(stored.parent_id, str) and stored.parent_id not in self._ids:
            # An export leaves out a parent that was removed, or names another one in its place.
            stored = msgspec.structs.replace(stored, parent_id=message.parent_id)
        return same_json(msgspec.json.encode(stored), msgspec.json.encode(message))

    def _differs(self) -> list[str]:
        """What the file says of the session itself, and its present state does not."""
        state, command = self._state, self._command
        if state is None:
            return ["state"]
        pairs = {
            "title": state.title == command.title,
            "user_id": state.user_id == command.user_id,
            "traits": same_json(state.traits, command.traits),
            "created_at": command.created_at in {None, format_us(state.created_at_us)},
        }
        return [name for name, same in pairs.items() if not same]

    def fault(self) -> str | None:
        """What the file has, and the ledger has not, behind all events."""
        if self._other is not None:
            return f"is there, and its message {self._other} says something else"
        rest = self._wanted[self._matched :]
        more = sum(not has_id or message.id not in self._ids_there for message, has_id in rest)
        if more:
            return f"is there with {self._visible} messages, the file has {more} more"
        if rest:
            return "is there with its messages in another order"
        return None if self._has_head else f"is there with another {', '.join(self._differs())}"
