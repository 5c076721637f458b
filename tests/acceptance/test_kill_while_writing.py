"""What was acknowledged is there after a SIGKILL.

This takes the place of the shell script by which the CRUD store proved that it persists over a restart.
"""

import random
from pathlib import Path

import httpx

from support.command import succeed
from support.journal import Journal, all_messages, check, create_shared
from support.seeds import new_seed
from support.server import Server
from support.store import Store
from support.tables import Rows, dump, wrong_leaves

ROUNDS = 3


def view_rows(database: Path) -> dict[str, Rows]:
    """The rows of all views, which are in order as they are."""
    with Store(database) as store:
        assert store.rebuilt is None
        assert wrong_leaves(store.ledger) == []
        return dump(store.views.db)


def assert_retries_are_safe(client: httpx.Client, journal: Journal, chance: random.Random) -> None:
    """What nobody was told about is sent again and there once; what was acknowledged gets the same answer."""
    for write in journal.unacknowledged():
        response = write.send(client)
        if write.creates and response.status_code == 409:  # it was there, and had no key to know it again by
            assert write.key is None
            assert response.json()["type"] == "urn:chatledger:problem:session-exists"
        else:
            assert response.status_code == 201, response.text
        write.acknowledged, write.answer = True, None
    known = [write for write in journal.writes if write.key is not None and write.answer is not None]
    for write in chance.sample(known, min(len(known), 50)):
        response = write.send(client)
        assert response.headers["idempotency-replayed"] == "true"
        assert response.json() == write.answer


def test_a_killed_server_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """Eight writers, three SIGKILLs at random moments: everything acknowledged is there once and in order.

    What was not acknowledged is there once or not at all, and can be sent again; the views equal a replay.
    """
    seed = new_seed()
    chance = random.Random(seed)
    journal = Journal(seed)
    server = Server(tmp_path / "ledger.db", cwd=tmp_path)
    with server, server.client() as client:
        create_shared(client)
        for _ in range(ROUNDS):
            with journal.writing(server):
                journal.wait_for(chance.randrange(1, 800))
                server.kill()
            assert journal.failures == []
            server.start()
            check(journal.writes, all_messages(client))
            assert_retries_are_safe(client, journal, chance)
            check(journal.writes, all_messages(client))
        assert server.stop() == 0
    lived = view_rows(tmp_path / "ledger.db")
    assert len(lived["messages"]) == sum(len(write.messages) for write in journal.writes)
    succeed("replay", "--database", "ledger.db", cwd=tmp_path)
    assert view_rows(tmp_path / "ledger.db") == lived
