"""A ledger of an older schema is read as it is, before the first start of this version migrates it."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from chatledger.ledger import event_store, tree_store
from chatledger.proofs.signed_heads import existing_signer
from chatledger.proofs.verification import lacking
from chatledger.storage import ledger_file
from chatledger.writing import erasure
from support.command import refuse, run, succeed
from support.files import contents
from support.old_ledgers import older_ledger, older_views, schema_of
from support.store import Store, append, create, delete, message, remove, update

OLDER = range(1, ledger_file.newest_schema())
LEDGER, VIEWS = "ledger.db", "ledger.db.views.000001.db"


class Newest:
    """A ledger of today's schema, of which older ones are made, and what commands say of it."""

    def __init__(self, folder: Path, *, erased: bool) -> None:
        self.folder = folder
        with Store(folder / LEDGER) as store:
            store.commit_all(create("s", *(message(f"m{number}") for number in range(300)), title="Long"))
            store.commit_all(create("t", message("m1")), create("o", message("m1"), tenant="acme"), create("gone"))
            store.commit_all(append("t", message("m2")), update("t", title="T"), remove("t", "m1"), delete("gone"))
            if erased:
                store.commit_all(create("e", message("m1", "secret")))
                erasure.erase(store.committer, tenant_id="default", session_id="e", reason="r", actor="cli")
                erasure.finish_now(store.committer)
            frontier = tree_store.read(store.ledger)
            self.size, self.root = frontier.size, frontier.root()
            signer = existing_signer(store.location, store.settings, event_store.identity(store.ledger))
            self.key, self.head = str(signer.verifier), signer.sign(self.size, self.root)
        self.sessions = succeed("export", "--database", LEDGER, cwd=folder)
        self.events = succeed("export", "--events", "--database", LEDGER, cwd=folder)
        assert len(self.events.splitlines()) == self.size

    def older(self, folder: Path, schema: int, views: str = "of now") -> Path:
        """The same as an older chatledger has left it when it stopped; its views are `of now`, `older`, or none."""
        older_ledger(self.folder / LEDGER, folder / LEDGER, schema)
        if views == "of now":
            (folder / VIEWS).write_bytes((self.folder / VIEWS).read_bytes())
        elif views == "older":
            older_views(self.folder / VIEWS, folder / VIEWS)
        return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Newest:
    """Without erasures, as there were none before schema 3."""
    return Newest(tmp_path_factory.mktemp("plain"), erased=False)


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Newest:
    """With an erased session."""
    return Newest(tmp_path_factory.mktemp("erased"), erased=True)


@pytest.fixture
def newest(request: pytest.FixtureRequest, schema: int) -> Newest:
    """The ledger of which one of that schema is made."""
    found = request.getfixturevalue("plain" if schema < 3 else "erased")
    assert isinstance(found, Newest)
    return found


def lines_of(folder: Path, *options: object) -> Sequence[str]:
    """What `chatledger verify` says."""
    return succeed("verify", "--database", LEDGER, *options, cwd=folder).splitlines()


@pytest.mark.parametrize("schema", OLDER)
def test_an_older_ledger_is_verified_as_it_is(newest: Newest, tmp_path: Path, schema: int) -> None:
    """With its head too; it says which schema that is, and what it has not; no byte of it is another one afterwards."""
    folder = newest.older(tmp_path, schema)
    (folder / "head").write_text(newest.head)
    before = contents(folder)
    missing = ", ".join(lacking(schema)) or "nothing that is verified"
    number = f"the ledger has schema {schema}, this chatledger {ledger_file.newest_schema()}"
    assert lines_of(folder, "--head", "head", "--public-key", newest.key) == [
        f"{newest.size} events verified; the tree's root is {newest.root.hex()}",
        f"the ledger extends the head of {newest.size} events",
        f"{number}: not there to be checked: {missing}",
        f"the views are what {newest.size} events make of them",
    ]
    assert contents(folder) == before
    assert schema_of(folder / LEDGER) == schema
    assert not list(folder.glob("*.lock"))


def test_what_older_schemas_lack_is_what_their_files_do_not_make(tmp_path: Path, plain: Newest) -> None:
    """Seeded check: a table that verify reads, and that a schema has or has not, is said so."""
    assert lacking(ledger_file.newest_schema()) == []
    for schema in OLDER:
        path = tmp_path / f"{schema}.db"
        older_ledger(plain.folder / LEDGER, path, schema)
        with closing(sqlite3.connect(path)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        known = {"tree", "tiles", "commitments", "erasures", "erasable"}
        assert set(lacking(schema)) == known - tables, schema


@pytest.mark.parametrize("schema", OLDER)
@pytest.mark.parametrize("views", ["of now", "older", "none"])
def test_an_older_ledger_is_exported_as_it_is(newest: Newest, tmp_path: Path, schema: int, views: str) -> None:
    """Sessions and events, whatever its views are: where they are of no use, others are built aside and removed."""
    folder = newest.older(tmp_path, schema, views)
    before = contents(folder)
    assert succeed("export", "--database", LEDGER, cwd=folder) == newest.sessions
    assert succeed("export", "--events", "--database", LEDGER, cwd=folder) == newest.events
    assert contents(folder) == before
    assert not list(folder.glob("*.lock"))


@pytest.mark.parametrize("schema", OLDER)
def test_the_status_of_an_older_ledger_changes_nothing(newest: Newest, tmp_path: Path, schema: int) -> None:
    """It shows the schema; sessions only where its views are of versions that are known."""
    for views, sessions, problem in (
        ("of now", 3, ""),
        ("older", None, "of other projections"),
        ("none", None, "none"),
    ):
        folder = tmp_path / views.replace(" ", "-")
        folder.mkdir()
        newest.older(folder, schema, views)
        before = contents(folder)
        found = json.loads(succeed("status", "--json", "--database", LEDGER, cwd=folder))
        assert (found["schema"], found["events"], found["sessions"]) == (schema, newest.size, sessions)
        assert problem in found["views_problem"]
        assert found["in_use"] is False
        assert contents(folder) == before
        assert not list(folder.glob("*.lock"))


@pytest.mark.parametrize("schema", OLDER)
def test_the_views_of_an_older_ledger_are_checked_or_said_not_to_be(
    newest: Newest, tmp_path: Path, schema: int
) -> None:
    """Views of now against a rebuild; others are named, by `replay --check` as its refusal."""
    folder = newest.older(tmp_path, schema)
    expected = f"the views are what {newest.size} events make of them\n"
    assert succeed("replay", "--check", "--database", LEDGER, cwd=folder) == expected
    (folder / VIEWS).unlink()
    older_views(newest.folder / VIEWS, folder / VIEWS)
    before = contents(folder)
    said = refuse("replay", "--check", "--database", LEDGER, cwd=folder)
    assert 'The views were not checked: they were built by the projections {"sessions":0' in said
    assert lines_of(folder)[-1] + "\n" == said.removeprefix("chatledger: ")
    assert contents(folder) == before
    assert schema_of(folder / LEDGER) == schema


@pytest.mark.parametrize("schema", OLDER)
def test_a_backup_of_an_older_ledger_leaves_it_as_it_is(newest: Newest, tmp_path: Path, schema: int) -> None:
    """The copy is of today's schema, and restores to the same events; then the older one is migrated by its start."""
    folder = newest.older(tmp_path, schema, "none")
    before = contents(folder)
    said = succeed("backup", "--database", LEDGER, "b.db", cwd=folder)
    assert said == f"{newest.size} events backed up into b.db; the tree's root is {newest.root.hex()}\n"
    assert contents(folder) == before | {"b.db": (folder / "b.db").read_bytes()}
    assert (schema_of(folder / LEDGER), schema_of(folder / "b.db")) == (schema, ledger_file.newest_schema())
    succeed("restore", "--database", "again/ledger.db", "b.db", cwd=folder)
    assert succeed("export", "--events", "--database", "again/ledger.db", cwd=folder) == newest.events
    with Store(folder / LEDGER) as store:
        assert store.ledger.pragma("user_version") == ledger_file.newest_schema()
        assert tree_store.read(store.ledger).root() == newest.root


@pytest.mark.parametrize("schema", OLDER)
@pytest.mark.parametrize("command", [["export"], ["export", "--events"], ["replay", "--check"], ["backup", "b.db"]])
def test_each_reading_command_says_which_schema_it_reads(
    newest: Newest, tmp_path: Path, schema: int, command: list[str]
) -> None:
    """On standard error, so that an export stays one; of a ledger of today nothing is said."""
    line = f"the ledger has schema {schema}, this chatledger {ledger_file.newest_schema()}: it is read as it is"
    folder = newest.older(tmp_path, schema)
    for where, said in ((folder, True), (newest.folder, False)):
        done = run(*command, "--database", where / LEDGER, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (line in done.stderr.splitlines()) is said
        (tmp_path / "b.db").unlink(missing_ok=True)


@pytest.mark.parametrize("schema", [number for number in OLDER if number >= 3])
def test_what_was_erased_is_not_exported_where_it_may_not_be_removed(
    newest: Newest, tmp_path: Path, schema: int
) -> None:
    """An erasure that a crash has interrupted is for the next start; until then its payloads are no export's."""
    folder = newest.older(tmp_path, schema)
    with closing(sqlite3.connect(folder / LEDGER)) as db, db:
        db.execute("""INSERT INTO erasures (position, stream)
          SELECT position, stream FROM events WHERE type = 'session.erased'""")
    assert succeed("export", "--events", "--database", LEDGER, cwd=folder) == newest.events
    assert succeed("export", "--database", LEDGER, cwd=folder) == newest.sessions
    assert lines_of(folder)[0].startswith(f"{newest.size} events verified")
    assert schema_of(folder / LEDGER) == schema


@pytest.mark.parametrize("schema", OLDER)
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET actor = 'x' WHERE position = 3", "position 3 (session 's' of tenant 'default') does not"),
        ("DELETE FROM events WHERE position = 7", "There is no event at position 7"),
        ("UPDATE events SET payload = NULL, salt = NULL WHERE position = 9", "position 9 (session 's' of tenant"),
    ],
)
def test_damage_in_an_older_ledger_is_found(
    newest: Newest, tmp_path: Path, schema: int, statement: str, said: str
) -> None:
    """What is there is checked as in a ledger of today."""
    folder = newest.older(tmp_path, schema)
    edit(folder, statement)
    done = run("verify", "--database", LEDGER, cwd=folder)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("table", ["tree", "tiles", "commitments"])
def test_what_a_schema_has_is_not_passed_over(plain: Newest, tmp_path: Path, table: str) -> None:
    """A tree that somebody has taken out of a ledger that had one is damage, and no older schema."""
    folder = plain.older(tmp_path, 2)
    edit(folder, f"DROP TABLE {table}" if table != "tree" else "DELETE FROM tree")
    if table == "commitments":
        edit(folder, "UPDATE events SET payload = NULL, salt = NULL WHERE position = 9")
    done = run("verify", "--database", LEDGER, cwd=folder)
    assert done.returncode == 1
    assert "damaged" in done.stderr or "missing" in done.stderr


def edit(folder: Path, statement: str) -> None:
    """Change the ledger behind its guards."""
    with closing(sqlite3.connect(folder / LEDGER)) as db, db:
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute(statement)
