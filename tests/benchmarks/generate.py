"""Large inputs, replicated from conversations: a ledger through the committer, and a file to import."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.conversations import Conversation, without_ids
from chatledger.domain.commands import AppendMessages, CreateSession
from chatledger.domain.messages import MessageInput, accept_message
from chatledger.maintenance import local_ledger
from chatledger.settings import Settings
from chatledger.writing.command_group import Committed, Submission

OPEN_SESSIONS = 100
"""How many sessions go on at a time. A ledger in which each session is one run would be kinder to the indexes
than one that was written live."""
GROUP_COMMANDS = 5_000
ACTOR = "open"


class GeneratingFailed(Exception):
    """The committer refused what was generated."""


def ledger(path: Path, conversations: list[Conversation], *, events: int) -> None:
    """Make a ledger of exactly *events* events at *path*, with its views, and close it."""
    with local_ledger.writing(Settings(database_path=str(path))) as committer:
        coming = islice(submissions(conversations), events)
        while group := list(islice(coming, GROUP_COMMANDS)):
            check(committer.commit(group))


def check(outcomes: Iterable[object]) -> None:
    """See that each was committed.

    Raises:
        GeneratingFailed: one was refused.
    """
    for outcome in outcomes:
        if not isinstance(outcome, Committed):
            raise GeneratingFailed(f"{outcome}")


def submissions(conversations: list[Conversation], *, prefix: str = "") -> Iterator[Submission]:
    """Without end: sessions that begin, get a message each in turn, and make place for the next."""
    coming = _sessions(conversations, prefix)
    under_way = deque(islice(coming, OPEN_SESSIONS))
    while True:
        session = under_way.popleft()
        submission = next(session, None)
        if submission is None:
            under_way.append(next(coming))
        else:
            yield submission
            under_way.append(session)


def _sessions(conversations: list[Conversation], prefix: str) -> Iterator[Iterator[Submission]]:
    inputs = [[_input(message) for message in found.messages] for found in conversations]
    for copy in count():
        for conversation, messages in zip(conversations, inputs, strict=True):
            yield _session(conversation, messages, f"{prefix}{conversation.id}.{copy}")


def _input(message: dict[str, Any]) -> MessageInput:
    return msgspec.json.decode(msgspec.json.encode(without_ids(message)), type=MessageInput)


def _session(conversation: Conversation, messages: list[MessageInput], session_id: str) -> Iterator[Submission]:
    create = CreateSession(user_id=conversation.user_id, traits=msgspec.Raw(msgspec.json.encode(conversation.traits)))
    yield _submission(session_id, create)
    for given in messages:
        # Each message gets a new UUIDv7, as in a server whose clients leave ids to it.
        message = accept_message(given, field="$")
        yield _submission(session_id, AppendMessages((message,), ()))


def _submission(session_id: str, command: CreateSession | AppendMessages) -> Submission:
    return Submission(tenant_id="default", session_id=session_id, actor=ACTOR, command=command)


def import_file(path: Path, conversations: list[Conversation], *, messages: int) -> int:
    """Write JSON lines with at least *messages* messages, whole sessions, ids as given; return how many it has."""
    written = 0
    with path.open("wb") as file:
        for copy in count():
            for found in conversations:
                line = msgspec.structs.replace(found, id=f"{found.id}.{copy}")
                file.write(msgspec.json.encode(line) + b"\n")
                written += len(found.messages)
                if written >= messages:
                    return written
    raise AssertionError
