"""Images of the data folder, as a crash could leave them while the server writes, are good to start from."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatledger.transfer.exporter import session_lines
from support.journal import Journal, Write, all_messages, check, create_shared
from support.seeds import new_seed
from support.server import Server
from support.store import Store
from support.tables import dump, dump_rebuilt, wrong_leaves

IMAGES = 5


@contextmanager
def standing_still(server: Server) -> Iterator[None]:
    """Hold the process, so that a copy of several files is of one moment."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, server.pid, os.WSTOPPED)
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def copy_image(source: Path, target: Path, *, shared_memory: bool) -> None:
    """Copy the ledger, the views and their write-ahead logs."""
    target.mkdir()
    for path in source.glob("ledger.db*"):
        if shared_memory or not path.name.endswith("-shm"):
            shutil.copy(path, target)


def tear_views_log(folder: Path, chance: random.Random) -> None:
    """Cut the end of the views' log off: it is not synced, so a power cut can take any part of it."""
    (log,) = folder.glob("ledger.db.views.*.db-wal")
    os.truncate(log, chance.randrange(log.stat().st_size + 1))


def stored_messages(store: Store) -> dict[str, list[dict[str, Any]]]:
    """All sessions' messages as readers get them; none was removed, so their places are their numbers."""
    text = b"".join(part for _, part in session_lines(store.views.db, "default"))
    sessions = [json.loads(line) for line in text.splitlines()]
    return {
        session["id"]: [{**message, "seq": seq} for seq, message in enumerate(session["messages"], start=1)]
        for session in sessions
    }


def assert_image_is_good(image: Path, acknowledged: list[Write]) -> None:
    """The image opens as a server opens it, without a rebuild; what was acknowledged is there."""
    with Store(image / "ledger.db") as store:
        check(acknowledged, stored_messages(store), complete=False)
        assert wrong_leaves(store.ledger) == []
        assert dump(store.views.db) == dump_rebuilt(store, image)
        assert store.rebuilt is None


@pytest.mark.parametrize("torn", [False, True], ids=["checkpointing", "torn-views-log"])
def test_an_image_of_a_writing_server_is_whole(tmp_path: Path, torn: bool) -> None:  # noqa: FBT001
    """Five images at random moments: each has all that was acknowledged before, and views equal to a rebuild.

    Once with logs that are copied back all the time, once with logs that never are and can lose their end.
    """
    seed = new_seed()
    chance = random.Random(seed)
    journal = Journal(seed)
    pages = 1_000_000 if torn else 20
    settings = {"CHATLEDGER_WAL_CHECKPOINT_PAGES": str(pages)}
    folder = tmp_path / "data"
    folder.mkdir()
    taken: list[tuple[Path, list[Write]]] = []
    with Server(folder / "ledger.db", cwd=folder, env=settings) as server, server.client() as client:
        create_shared(client)
        with journal.writing(server):
            for number in range(IMAGES):
                journal.wait_for(chance.randrange(1, 200))
                image = tmp_path / f"image-{number}"
                acknowledged = journal.snapshot()
                with standing_still(server):
                    copy_image(folder, image, shared_memory=chance.random() < 0.5)
                if torn:
                    tear_views_log(image, chance)
                taken.append((image, acknowledged))
        assert journal.failures == []
        check(journal.writes, all_messages(client))
    for image, acknowledged in taken:
        assert_image_is_good(image, acknowledged)


def test_a_server_starts_on_an_image(tmp_path: Path, server: Server) -> None:
    """The real server serves what was acknowledged before its predecessor's folder was copied."""
    journal = Journal(seed=0, writers=2)
    image = tmp_path / "image"
    with server.client() as client:
        create_shared(client)
    with journal.writing(server):
        journal.wait_for(50)
        acknowledged = journal.snapshot()
        with standing_still(server):
            copy_image(tmp_path, image, shared_memory=True)
    with Server(image / "ledger.db", cwd=image) as second, second.client() as client:
        check(acknowledged, all_messages(client), complete=False)
        assert client.get("/health/ready").status_code == 200
