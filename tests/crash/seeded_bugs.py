"""Bugs that are put into the product for a control: a harness that does not find them is worth nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from chatledger.ledger import event_store, tree_store
from chatledger.maintenance import restore
from chatledger.proofs import signed_heads
from chatledger.storage import ledger_file, paths, sql_errors, transactions
from chatledger.storage.connection import Connection, open_writer
from chatledger.views import apply_triggers, builder, live_views
from chatledger.writing import committer, erasure, erasure_list


def _with_less_sync(real: Callable[..., Any]) -> Callable[..., Any]:
    def open_writer(*arguments: Any, synchronous: str, **more: Any) -> Any:
        del synchronous
        return real(*arguments, synchronous="normal", **more)

    return open_writer


def _nothing(*_: Any) -> None:
    """No sync, no line."""


def _position_first(db: Any, ledger_db: Any, projections: Any, *, start: int, end: int) -> None:  # noqa: ARG001
    """The views' position in one transaction, their rows in the next."""
    real_leaf = ledger_db.execute("SELECT leaf FROM events WHERE position = ?", (end,)).get
    old = db.execute("SELECT position, leaf FROM views").fetchone()
    with transactions.immediate(db):
        db.execute("UPDATE views SET position = ?, leaf = ?", (end, real_leaf))
    with transactions.immediate(db):
        db.execute("UPDATE views SET position = ?, leaf = ?", old)
        db.execute(apply_triggers.TAKE_TO, (end,))


def _write_apart(self: committer.Committer, group: Any, records: Any) -> None:
    """The ledger in a transaction of its own, then the views by `_position_first`."""
    grown = self._tree.copy()
    completed = grown.append([record.leaf for record in records])
    with transactions.immediate(self.ledger):
        event_store.write_streams(self.ledger, group.streams)
        for row in event_store.rows(records):
            self.ledger.execute(f"INSERT INTO events VALUES ({', '.join('?' * 11)})", row)
        if records:
            self.ledger.execute("UPDATE tree SET size = ?, frontier = ?", (grown.size, grown.encode()))
        tree_store.extend_tiles(self.ledger, completed)
        self._remember(group, records)
    self._tree = grown
    if records:
        _position_first(self.ledger, self.ledger, (), start=self.views.position, end=group.position)


def _list_after() -> Iterator[Any]:
    """The list beside the ledger is written once the payloads are gone."""
    add, finish = erasure_list.add, erasure.Eraser._finish
    waiting: list[tuple[Any, ...]] = []

    def finish_and_list(eraser: erasure.Eraser) -> None:
        while waiting:
            add(*waiting.pop())
        finish(eraser)

    yield patch.object(erasure_list, "add", lambda *arguments: waiting.append(arguments))
    yield patch.object(erasure.Eraser, "_finish", finish_and_list)


@contextmanager
def _immediate_without_doubt(connection: Connection) -> Iterator[None]:
    """A COMMIT that failed did not happen: nothing was written, and the connection goes on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        transactions.roll_back(connection)
        raise


@contextmanager
def _autocommit_without_doubt() -> Iterator[None]:
    """The same."""
    yield


@contextmanager
def _answered_all_the_same(connection: Connection) -> Iterator[None]:
    """A COMMIT that failed is no reason not to answer."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        transactions.roll_back(connection)
        raise
    try:
        connection.execute("COMMIT")
    except sql_errors.SQLError:
        transactions.roll_back(connection)


def _changes(bug: str | None) -> Iterator[Any]:
    match bug:
        case "synchronous_normal":
            yield patch.object(ledger_file, "open_writer", _with_less_sync(open_writer))
        case "views_position_first":
            yield patch.object(committer.Committer, "_write", _write_apart)
            yield patch.object(live_views, "take_to", _position_first)
            yield patch.object(builder, "take_to", _position_first)
        case "no_folder_sync":
            for module in (paths, live_views, erasure_list, restore, signed_heads):
                if hasattr(module, "sync_folder"):
                    yield patch.object(module, "sync_folder", _nothing)
        case "list_after_erasing":
            yield from _list_after()
        case "failed_commit_taken_for_none":
            yield patch.object(transactions, "immediate", _immediate_without_doubt)
            yield patch.object(transactions, "autocommit", _autocommit_without_doubt)
        case "failed_sync_taken_for_success":
            yield patch.object(transactions, "immediate", _answered_all_the_same)
        case "answer_before_commit" | None:
            return
        case _:
            raise ValueError(bug)


@contextmanager
def put_in(bug: str | None) -> Iterator[None]:
    """Have the product make a mistake; `answer_before_commit` is made by the harness, which gives the answers."""
    changes = list(_changes(bug))
    for change in changes:
        change.start()
    try:
        yield
    finally:
        for change in changes:
            change.stop()
