"""A ledger of an older schema is brought up to date when it is opened, and what it held is as before."""

from contextlib import closing
from pathlib import Path

import apsw
import pytest
from support.store import Store, append, create, delete, message
from support.tables import dump, dump_rebuilt

from service import database, tree
from service.verify import verify_ledger

ADDED = {2: ("tree", "tiles", "commitments"), 3: ("erasures",), 4: ("key_uses",)}
"""The tables that each schema has added to the first one."""


def take_back(ledger: Path, schema: int) -> None:
    """Make the ledger one of an older schema: what later ones have added is gone."""
    with closing(apsw.Connection(str(ledger))) as db:
        db.execute("DROP TRIGGER IF EXISTS events_erased")
        for number, names in ADDED.items():
            for name in names:
                if number > schema:
                    db.execute(f"DROP TABLE {name}")
        db.pragma("user_version", schema)


@pytest.mark.parametrize("schema", range(1, len(ADDED) + 1))
def test_an_older_ledger_is_brought_up_to_date(tmp_path: Path, schema: int) -> None:
    """It gets the tree over its leaves with all tiles, verifies, goes on, and its events are untouched."""
    path = tmp_path / "ledger.db"
    with Store(path) as store:
        store.commit_all(create("s", *(message(f"m{number}") for number in range(300))), create("t"), delete("t"))
        rows = store.ledger.execute("SELECT * FROM events ORDER BY position").fetchall()
        root = tree.read(store.ledger).root()
    take_back(path, schema)
    with Store(path) as store:
        assert store.ledger.pragma("user_version") == database.newest_schema()
        assert store.ledger.execute("SELECT * FROM events ORDER BY position").fetchall() == rows
        assert verify_ledger(store.ledger).root() == root
        store.commit_all(append("s", message("later")))
        assert verify_ledger(store.ledger).size == len(rows) + 1
        assert dump(store.views.db) == dump_rebuilt(store, tmp_path)


def test_the_list_of_what_schemas_have_added_is_whole(tmp_path: Path) -> None:
    """Seeded check: a new migration has to be added above."""
    with Store(tmp_path / "ledger.db") as store:
        assert store.ledger.pragma("user_version") == max(ADDED) == database.newest_schema()
