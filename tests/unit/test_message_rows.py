"""A message's row says what its payload says, whichever of the two ways it was read."""

import msgspec
import pytest
from msgspec import UNSET, Raw

from chatledger.domain.events import Message, MessageAppended, SessionCreated
from chatledger_projections import messages, sessions
from support.scenario import History, Scenario

UUID = "01a20dd8-f19e-731b-ab1a-566177da6bdb"
DECOY = f'{{"id":"{UUID}"}}'
UNREADABLE = msgspec.json.encode(f'x","id":"{UUID}"}}}}')

MESSAGES = {
    "an id of the service": Message(role="user", content=Raw(b'"hi"'), id=UUID),
    "no content": Message(role="assistant", id=UUID),
    "text of several bytes a character before the id": Message(
        role="user", content=Raw('"été 日本"'.encode()), id=UUID
    ),
    "a short id": Message(role="user", content=Raw(b'"hi"'), id="m-1"),
    "the shortest id behind another": Message(role="user", metadata=Raw(DECOY.encode()), id="m"),
    "a long id that ends as a payload does": Message(role="user", id="x" * 92 + UUID),
    "an id as long as a UUID": Message(role="user", id="._:-" * 9),
    "another id in the metadata": Message(role="user", metadata=Raw(DECOY.encode()), id=UUID),
    "text that looks like an end": Message(role="user", content=Raw(UNREADABLE), id="m-2"),
    "a parent": Message(role="user", parent_id=UUID, id="m-3"),
    "its own time": Message(role="user", id=UUID, created_at="2024-01-01T00:00:00.000000Z"),
    "its own time, and the id elsewhere": Message(
        role="user", metadata=Raw(DECOY.encode()), id="m-4", created_at="2024-01-01T00:00:00.000000Z"
    ),
}


@pytest.mark.parametrize("seq", [1, 10, 12_345_678_901])
@pytest.mark.parametrize("name", MESSAGES)
def test_a_row_has_the_id_seq_and_time_of_its_payload(name: str, seq: int) -> None:
    """Most payloads are read by how they end, the others as JSON; the time is kept where the message has none."""
    message, history = MESSAGES[name], History()
    events = history.add("s", SessionCreated(), MessageAppended(seq=seq, message=message))
    scenario = Scenario((sessions.PROJECTION, messages.PROJECTION)).when(events)
    row = scenario.db.execute("SELECT seq, id, created_at, payload FROM messages").fetchone()
    recorded_at = events[1].recorded_at if message.created_at is UNSET else None
    assert row == (seq, message.id, recorded_at, msgspec.json.encode(events[1].data).decode())


def test_a_batch_of_all_of_them_loses_none() -> None:
    """Those that the first statement does not take are taken by the second, and no other."""
    history = History()
    events = [
        event
        for number, message in enumerate(MESSAGES.values())
        for event in history.add(f"s{number}", SessionCreated(), MessageAppended(seq=1, message=message))
    ]
    scenario = Scenario((sessions.PROJECTION, messages.PROJECTION)).when(events)
    ids = [row[0] for row in scenario.db.execute("SELECT id FROM messages ORDER BY position")]
    assert ids == [message.id for message in MESSAGES.values()]
