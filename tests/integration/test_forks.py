"""Forks that are made in pieces: hidden until they are whole, finished whatever comes in between, trees kept."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatledger.application import fork_copies
from chatledger.application.fork_copies import Copies
from chatledger.domain import commands
from chatledger.domain.commands import Decision, DeleteSession, EraseSession, ForkSession
from chatledger.domain.events import SessionCreated
from chatledger.errors import DomainError, NotFound, SessionExists
from chatledger.ledger import event_store
from chatledger.ledger.idempotency_store import IdempotencyKey
from support.server import Server
from support.store import Store, append, create, delete, message, remove, run, submit
from support.workers import until

KEY = IdempotencyKey("k", hashlib.sha256(b"fork").digest())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A session `s` of five messages, of which a piece takes two."""
    monkeypatch.setattr(fork_copies, "PIECE_MESSAGES", 2)
    with Store(tmp_path / "ledger.db") as opened:
        opened.commit_all(create("s", *(message(f"m{number}", f"text {number}") for number in range(5)), title="T"))
        yield opened


def begin(store: Store, name: str = "f", *, version: int | None = None, key: IdempotencyKey | None = None) -> None:
    """The first piece of a fork of `s`, and then whoever made it is gone."""
    plan = run(store.tenant().plan_fork("s", version=version, title=None))
    first = Copies(plan).piece(store.ledger)
    command = ForkSession(source=plan.source, created=plan.created, messages=first, total=plan.total)
    store.commit_all(submit(name, command, key=key))


def shown(store: Store, name: str = "f") -> list[dict[str, Any]]:
    """The messages that readers see."""
    view = run(store.tenant().session(name, newest=1000))
    return list(json.loads(b"[%b]" % view.messages))


def kinds(store: Store, name: str = "f") -> list[str]:
    """The types of a session's events."""
    stream = event_store.find_stream(store.ledger, "default", name)
    assert stream is not None
    return [record.event.type for record in event_store.read_stream(store.ledger, stream)]


def test_nobody_sees_a_part_of_a_fork(store: Store) -> None:
    """Its id is taken, nothing else can be done to it, and it is in no list."""
    begin(store)
    with pytest.raises(NotFound):
        shown(store)
    listed = run(store.tenant().sessions_page(user_id=None, archived=None, before_position=2**62, limit=9))
    assert [state.session_id for state in listed] == ["s"]
    (outcome,) = store.commit(create("f"))
    assert isinstance(outcome, SessionExists)
    for submission in (append("f", message("x")), remove("f", "m0"), submit("f", DeleteSession())):
        (outcome,) = store.commit(submission)
        assert isinstance(outcome, NotFound)
    store.finish_forks()
    assert [each["id"] for each in shown(store)] == [f"m{number}" for number in range(5)]
    assert kinds(store) == ["session.created", *["message.appended"] * 5]
    assert event_store.unfinished_streams(store.ledger) == []


def test_it_is_visible_from_its_last_copy_on(store: Store) -> None:
    """As of an earlier version there was no such session, and from there on it is one like any other."""
    begin(store)
    store.finish_forks()
    store.commit_all(append("f", message("more")))
    for version in range(1, 6):
        with pytest.raises(NotFound):
            run(store.tenant().session_as_of("f", newest=9, version=version))
    assert len(json.loads(b"[%b]" % run(store.tenant().session_as_of("f", newest=9, version=6)).messages)) == 5
    assert len(shown(store)) == 6


def test_the_next_start_goes_on(store: Store) -> None:
    """Whoever made it was killed between two pieces."""
    begin(store)
    path = Path(store.location.ledger)
    store.close()
    with Server(path) as server, server.client() as client:
        until(lambda: client.get("/v1/sessions/f").status_code == 200)
        found = client.get("/v1/sessions/f?messages=10").json()
        assert (found["version"], found["message_count"], found["title"]) == (6, 5, "T")
        assert found["forked_from"] == {"session_id": "s", "version": 6}
        events = client.get("/v1/sessions/f/events").json()["data"]
        assert {(event["actor"], event["request_id"]) for event in events} == {("open", "test")}
    store.open()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_import_that_was_not_finished_is_ended_by_the_next_start(
    store: Store, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """Its user repeats it; what it was to be made of is not here."""
    created = SessionCreated(title="imported", visible_at=9)
    monkeypatch.setattr(commands, "_fork", lambda *_: Decision([created]))
    begin(store)
    path = Path(store.location.ledger)
    store.close()
    with Server(path, env={"CHATLEDGER_WORKERS": workers}) as server, server.client() as client:

        def last() -> Any:
            return client.get("/v1/sessions/f/events").json()["data"][-1]

        until(lambda: last()["type"] == "session.erased")
        assert last()["data"] == {"reason": "unfinished import"}
    store.open()


def test_it_goes_on_when_its_source_is_deleted(store: Store) -> None:
    """The copy is of a version at which it was there."""
    begin(store)
    store.commit_all(delete("s"))
    store.finish_forks()
    assert len(shown(store)) == 5


def test_it_goes_with_its_source_when_that_is_erased(store: Store) -> None:
    """In the same transaction, with the same reason and actor: it would only get more copies of what has to go."""
    begin(store)
    begin(store, "g")
    plan = run(store.tenant().plan_fork("s", version=None, title=None))
    run(store.tenant().fork("whole", plan, size_bytes=0))
    store.commit_all(submit("s", EraseSession("request 17")))
    for name in ("f", "g"):
        assert kinds(store, name)[-1] == "session.erased"
    assert kinds(store, "whole")[-1] == "message.appended"
    store.finish_forks()
    assert event_store.unfinished_streams(store.ledger) == []
    store.finish_erasures()
    for name in ("f", "g"):
        stream = event_store.find_stream(store.ledger, "default", name)
        assert stream is not None
        *before, last = event_store.read_stream(store.ledger, stream)
        assert [record.payload for record in before] == [None] * 3
        assert last.payload == b'{"reason":"request 17"}'


def test_a_repeat_of_its_request_finishes_it_and_gets_the_first_answer(store: Store) -> None:
    """The client was gone before the answer; what came later does not show in it."""
    begin(store, key=KEY)
    answer = run(store.tenant().replayed(KEY))
    assert answer is not None
    assert answer.state is not None
    assert (answer.version, answer.state.message_count, answer.replayed) == (6, 5, True)
    store.commit_all(append("f", message("later")))
    again = run(store.tenant().replayed(KEY))
    assert again == answer


def test_a_piece_ends_at_so_many_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or behind one message that is larger."""
    monkeypatch.setattr(fork_copies, "PIECE_MESSAGES", 100)
    monkeypatch.setattr(fork_copies, "PIECE_BYTES", 100)
    copies = Copies(run(store.tenant().plan_fork("s", version=None, title=None)))
    pieces = []
    while piece := copies.piece(store.ledger):
        pieces.append(len(piece))
    assert pieces == [2, 2, 1]


TREES: dict[str, tuple[list[tuple[str, Any]], list[str], dict[str, Any]]] = {
    "a line, from its middle": ([("a", ...), ("b", ...), ("c", ...)], ["b"], {"a": ..., "c": ...}),
    "the first of a line": ([("a", ...), ("b", ...)], ["a"], {"b": ...}),
    "a parent": ([("q", ...), ("a1", "q"), ("u", "a1")], ["a1"], {"q": ..., "u": "q"}),
    "two ancestors": ([("q", ...), ("x", "q"), ("y", "x"), ("z", "y")], ["x", "y"], {"q": ..., "z": "q"}),
    "all ancestors": ([("q", None), ("x", "q"), ("z", "x"), ("w", None)], ["q", "x"], {"z": None, "w": None}),
    "behind another branch": (
        [("q", ...), ("a", "q"), ("r", "q"), ("m", ...)],
        ["r"],
        {"q": ..., "a": "q", "m": "q"},
    ),
    "the end of the branch before": (
        [("q", ...), ("a", "q"), ("r", "a"), ("m", ...)],
        ["r"],
        {"q": ..., "a": "q", "m": ...},
    ),
    "nothing": ([("q", None), ("a", "q"), ("b", "q")], [], {"q": None, "a": "q", "b": "q"}),
}


@pytest.mark.parametrize("name", TREES)
def test_a_parent_that_was_removed_gives_way_to_its_nearest_ancestor(store: Store, name: str) -> None:
    """The copies are a tree of messages that are there (F17). `...`: no parent is said, it is the message before."""
    tree, removed, expected = TREES[name]
    messages = [message(each, **({} if parent is ... else {"parent_id": parent})) for each, parent in tree]
    store.commit_all(create("tree", *messages), *(remove("tree", each) for each in removed))
    plan = run(store.tenant().plan_fork("tree", version=None, title=None))
    for start in range(len(expected) + 1):  # also from where an interruption has left it
        copies = Copies(plan)
        copies.skip(store.ledger, start)
        found = []
        while piece := copies.piece(store.ledger):
            found += piece
        wanted = list(expected.items())[start:]
        assert [(each.id, ... if each.parent_id is msgspec.UNSET else each.parent_id) for each in found] == wanted


def test_a_fork_takes_no_reply_that_its_source_refuses(store: Store) -> None:
    """A removed message has no more children: in both alike."""
    store.commit_all(create("t", message("q"), message("a", parent_id="q"), message("u", parent_id="a")))
    store.commit_all(remove("t", "a"))
    plan = run(store.tenant().plan_fork("t", version=None, title=None))
    run(store.tenant().fork("f", plan, size_bytes=0))
    for name in ("t", "f"):
        (refused,) = store.commit(append(name, message("late", parent_id="a")))
        assert isinstance(refused, DomainError)
        store.commit_all(append(name, message("late", parent_id="q")))
