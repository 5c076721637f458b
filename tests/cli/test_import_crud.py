"""The CRUD store's file as it is found: texts that are none, odd ids, damage, and files that were made to harm."""

import random
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from chatledger.errors import RefusedToStart
from chatledger.settings import Settings
from chatledger.storage import foreign_file
from chatledger.transfer import crud_order, importer
from chatledger.transfer.json_lines import Found
from support import crud
from support.command import refuse
from support.imports import import_here, sessions_here

NOON_S = 1_715_774_400
GOOD = {"0": 1, "z": 1}
HALF_AN_EMOJI = {
    "UTF-8": "CAST(x'6869eda0bd' AS TEXT)",
    "UTF-16le": "CAST(x'680069003dd8' AS TEXT)",
    "UTF-16be": "CAST(x'00680069d83d' AS TEXT)",
}
"""What programs in Java and JavaScript leave of a text that was cut, by the encoding of the database."""
NO_TEXT = HALF_AN_EMOJI["UTF-8"]


def make(folder: Path, *statements: str, tables: str = crud.TABLES, encoding: str = "UTF-8") -> Path:
    """A store with two good sessions, `0` and `z`, with a message each, and what *statements* add."""
    connection = apsw.Connection(str(folder / "store.db"))
    connection.pragma("encoding", encoding)
    connection.execute(tables)
    with connection:
        for name in GOOD:
            connection.execute(session(name))
            connection.execute(said(f"of-{name}", name))
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return folder / "store.db"


def session(session_id: str, /, *, at: int = NOON_S, **values: str) -> str:
    """The INSERT of a session; *values* are SQL."""
    row = {"id": f"'{session_id}'", "tenant_id": "'t'", "user_id": "NULL", "traits": "NULL", "created_at": str(at)}
    row |= values
    return f"INSERT INTO sessions ({', '.join(row)}) VALUES ({', '.join(row.values())})"


def said(message_id: str, session_id: str, /, *, at: int = NOON_S, **values: str) -> str:
    """The INSERT of a message; *values* are SQL."""
    row = {"id": f"'{message_id}'", "session_id": f"'{session_id}'", "role": "'user'", "content": "'x'"}
    row |= {"created_at": str(at), **values}
    return f"INSERT INTO messages ({', '.join(row)}) VALUES ({', '.join(row.values())})"


def counts(folder: Path) -> dict[str, int]:
    """How many messages each imported session has."""
    return {name: len(found["messages"]) for name, found in sessions_here(folder, "t").items()}


# One bad session


BAD_TEXTS: dict[str, Callable[[str], Sequence[str]]] = {
    "content": lambda bad: [session("bad"), said("m1", "bad"), said("m2", "bad", content=bad)],
    "role": lambda bad: [session("bad"), said("m1", "bad", role=bad)],
    "message-id": lambda bad: [session("bad"), said("m1", "bad", id=bad)],
    "message-time": lambda bad: [session("bad"), said("m1", "bad", created_at=bad)],
    "session-id": lambda bad: [session("", id=bad), said("m1", "", session_id=bad)],
    "user": lambda bad: [session("bad", user_id=bad)],
    "tenant": lambda bad: [session("bad", tenant_id=bad)],
    "traits": lambda bad: [session("bad", traits=bad)],
    "session-time": lambda bad: [session("bad", created_at=bad)],
}


@pytest.mark.parametrize("name", BAD_TEXTS)
@pytest.mark.parametrize("encoding", HALF_AN_EMOJI)
def test_a_text_that_is_none_rejects_its_session_and_no_other(tmp_path: Path, name: str, encoding: str) -> None:
    """Half an emoji was the end of the whole import."""
    file = make(tmp_path, *BAD_TEXTS[name](HALF_AN_EMOJI[encoding]), encoding=encoding)
    report, reasons = import_here(file)
    assert counts(tmp_path) == GOOD
    assert (report.sessions, report.messages, len(reasons)) == (2, 2, 1)
    (where,) = reasons
    assert where.startswith("session b'" if name == "session-id" else "session 'bad'")
    assert reasons[where] == f"a text of it is not {encoding.removesuffix('le').removesuffix('be')}"


def test_messages_of_an_id_that_is_no_text_and_no_sessions_are_named(tmp_path: Path) -> None:
    """Bytes by bytes, once."""
    file = make(tmp_path, *(said(f"m{n}", "", session_id=NO_TEXT) for n in range(3)))
    _, reasons = import_here(file)
    assert reasons == {r"messages of session b'hi\xed\xa0\xbd'": "there is no such session"}
    assert counts(tmp_path) == GOOD


@pytest.mark.parametrize("value", ["NULL", "7", "7.5", "x'626164'", "''", "'a b'", "'no\ttab'"])
def test_an_id_of_another_kind_rejects_its_session_and_its_messages_once(tmp_path: Path, value: str) -> None:
    """In one line, and the others come over."""
    tables = crud.TABLES.replace("id TEXT PRIMARY KEY", "id").replace("session_id TEXT", "session_id")
    rows = [session("", id=value), *(said(f"m{n}", "", session_id=value) for n in range(3))]
    _, reasons = import_here(make(tmp_path, *rows, tables=tables))
    assert len(reasons) == 1
    assert next(iter(reasons)).startswith("session ")
    assert counts(tmp_path) == GOOD


def test_sessions_of_one_id_are_rejected_together(tmp_path: Path) -> None:
    """Nobody knows whose the messages are; and the first of them did not get all."""
    tables = crud.TABLES.replace("id TEXT PRIMARY KEY", "id TEXT")
    rows = [session("twin"), session("twin", tenant_id="'u'"), said("m1", "twin"), session("one")]
    _, reasons = import_here(make(tmp_path, *rows, tables=tables))
    assert reasons == {"session 'twin'": "the file has 2 sessions of this id"}
    assert counts(tmp_path) == {**GOOD, "one": 0}
    assert sessions_here(tmp_path, "u") == {}


@pytest.mark.parametrize("column", ["id", "user_id", "traits", "content", "message_id"])
def test_a_value_of_many_bytes_rejects_its_session_and_is_never_read(tmp_path: Path, column: str) -> None:
    """It is looked at by its length alone."""
    limit, long = 2_000, f"printf('%.*c', {3_000_000}, 'x')"
    row = {
        "id": [session("", id=long)],
        "user_id": [session("big", user_id=long)],
        "traits": [session("big", traits=f"""'{{"a":"' || {long} || '"}}'""")],
        "content": [session("big"), said("m", "big", content=long)],
        "message_id": [session("big"), said("", "big", id=long)],
    }[column]
    report, reasons = import_here(make(tmp_path, *row), import_line_bytes_max=limit)
    assert counts(tmp_path) == GOOD
    assert (report.sessions, len(reasons)) == (2, 1)
    assert "longer than 2000 bytes" in "".join(reasons.values())
    assert len("".join(reasons)) < 200


def test_a_session_of_many_messages_has_the_limit_of_a_line(tmp_path: Path) -> None:
    """It is in memory whole while it is written."""
    many = [said(f"m{n}", "big") for n in range(100)]
    _, reasons = import_here(make(tmp_path, session("big"), *many), import_line_bytes_max=5_000)
    assert reasons == {"session 'big'": "longer than 5000 bytes"}
    assert counts(tmp_path) == GOOD


# Ids


def test_ids_are_matched_byte_by_byte_whatever_the_columns_collate(tmp_path: Path) -> None:
    """a1, B2, c3 by a collation that passes over case: B2 lost its messages, for good."""
    names = ["a1", "B2", "c3", "D4", "e5"]
    for number, which in enumerate([("sessions",), ("messages",), ("sessions", "messages")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        tables = crud.TABLES
        if "sessions" in which:
            tables = tables.replace("id TEXT PRIMARY KEY, tenant_id", "id TEXT PRIMARY KEY COLLATE NOCASE, tenant_id")
        if "messages" in which:
            tables = tables.replace("session_id TEXT", "session_id TEXT COLLATE NOCASE")
        rows = [*map(session, names), *(said(f"m-{name}", name) for name in names if name != "c3")]
        report, reasons = import_here(make(folder, *rows, tables=tables))
        assert reasons == {}
        assert counts(folder) == GOOD | dict.fromkeys(names, 1) | {"c3": 0}
        assert report.sessions == 7


@pytest.mark.parametrize(
    ("id_type", "named_type", "stored", "named"),
    [
        ("TEXT COLLATE NOCASE", "TEXT COLLATE NOCASE", "AB-CD", "'ab-cd'"),
        ("TEXT COLLATE NOCASE", "TEXT", "AB-CD", "'ab-cd'"),
        ("TEXT", "TEXT COLLATE NOCASE", "AB-CD", "'ab-cd'"),
        ("TEXT COLLATE RTRIM", "TEXT", "AB-CD", "'AB-CD  '"),
        ("TEXT", "INTEGER", "7", "7"),
        ("TEXT", "", "7", "7"),
        ("VARCHAR(36)", "BIGINT", "7", "7"),
        ("TEXT", "REAL", "7.5", "7.5"),
    ],
)
def test_messages_go_to_the_session_that_the_store_itself_finds(
    tmp_path: Path, id_type: str, named_type: str, stored: str, named: str
) -> None:
    """By its foreign key, or by a query for them. They were left out, and the session imported without them."""
    tables = crud.TABLES.replace("id TEXT PRIMARY KEY, tenant_id", f"id {id_type} PRIMARY KEY, tenant_id")
    tables = tables.replace("session_id TEXT", f"session_id {named_type}")
    rows = [session(stored), said("m2", "", session_id=named, at=NOON_S + 2), said("m1", stored, at=NOON_S + 1)]
    _, reasons = import_here(make(tmp_path, *rows, tables=tables))
    assert reasons == {}
    assert [message["id"] for message in sessions_here(tmp_path, "t")[stored]["messages"]] == ["m1", "m2"]


def test_messages_of_two_possible_sessions_are_nobodys(tmp_path: Path) -> None:
    """Both sessions are rejected: neither may be imported without what may be its own."""
    tables = crud.TABLES.replace("session_id TEXT", "session_id TEXT COLLATE NOCASE")
    rows = [session("AB"), session("ab"), said("m1", "AB"), said("m2", "Ab")]
    _, reasons = import_here(make(tmp_path, *rows, tables=tables))
    assert set(reasons) == {"session 'AB'", "session 'ab'"}
    assert set(reasons.values()) == {
        "messages may be its own or another session's: ids differ only in case, spaces or type"
    }
    assert counts(tmp_path) == GOOD


def test_ids_that_the_store_tells_apart_are_apart(tmp_path: Path) -> None:
    """Case, blanks and a BLOB of the same bytes: messages of no session, each id once."""
    values = ["'AB'", "'ab '", "x'6162'", "'07'", "'AB'"]
    rows = [session("ab"), session("7"), *(said(f"m{n}", "", session_id=value) for n, value in enumerate(values))]
    _, reasons = import_here(make(tmp_path, *rows))
    assert set(reasons) == {f"messages of session {name!r}" for name in ("AB", "ab ", b"ab", "07")}
    assert counts(tmp_path) == {**GOOD, "ab": 0, "7": 0}


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_store_in_utf16_comes_over(tmp_path: Path, encoding: str) -> None:
    """There U+FF41 comes behind U+1F600, and in UTF-8 before it; each message has its session all the same."""
    texts = ["\uff41", "\U0001f600", "é", "~"]
    rows = []
    for n, text in enumerate(texts):  # no ids of ours, but of the messages that have to find their session
        rows += [session(f"s{n}", user_id=f"'{text}'"), said(f"m{n}", f"s{n}", content=f"'{text}'")]
        rows += [said(f"o{n}", text)]
    _, reasons = import_here(make(tmp_path, *rows, encoding=encoding))
    assert set(reasons) == {f"messages of session {text!r}" for text in texts}
    found = sessions_here(tmp_path, "t")
    assert {found[f"s{n}"]["user_id"]: found[f"s{n}"]["messages"][0]["content"] for n in range(4)} == {
        text: text for text in texts
    }


# The order of activity


def test_sessions_come_in_the_order_of_their_newest_message(tmp_path: Path) -> None:
    """Else of their creation: so that the list is as it was, and not in the order of random ids."""
    times = {"s3": (1, [9]), "s1": (2, [5, 3]), "s4": (4, []), "s2": (0, [8, 7])}
    rows = []
    for name, (created, messages) in times.items():
        rows.append(session(name, at=NOON_S + created))
        rows += [said(f"{name}-{n}", name, at=NOON_S + at) for n, at in enumerate(messages)]
    import_here(make(tmp_path, *rows))
    assert list(sessions_here(tmp_path, "t")) == ["0", "z", "s4", "s1", "s2", "s3"]


def test_times_of_every_form_are_ordered_by_what_they_mean(tmp_path: Path) -> None:
    """Seconds, milliseconds, texts with an offset: by the moment, not by the number."""
    times = ["1715774401", "'2024-05-15T14:00:02+02:00'", "1715774403000", "'2024-05-15 12:00:04'", "1715774405000000"]
    names = [f"s{(n * 2) % 5}" for n in range(5)]
    rows = [session(name) for name in names]
    rows += [said(f"m-{name}", name, created_at=time) for name, time in zip(names, times, strict=True)]
    import_here(make(tmp_path, *rows))
    assert list(sessions_here(tmp_path, "t"))[2:] == names


# Other tables


@pytest.mark.parametrize("table", ["sessions", "messages"])
def test_a_table_without_rowid_comes_over(tmp_path: Path, table: str) -> None:
    """Messages of one time in the order of their ids: that in which they were written is not known."""
    head, _, rest = crud.TABLES.partition(");")
    tables = f"{head}) WITHOUT ROWID;{rest}" if table == "sessions" else f"{head});{rest.rstrip()[:-1]} WITHOUT ROWID;"
    rows = [session("s"), *(said(f"m{n}", "s") for n in (3, 1, 2)), said("gone", "nowhere")]
    rows += [session("b"), said("x", "b"), said("y", "b", content=NO_TEXT)]
    _, reasons = import_here(make(tmp_path, *rows, tables=tables))
    assert set(reasons) == {"messages of session 'nowhere'", "session 'b'"}
    found = sessions_here(tmp_path, "t")
    expected = ["m3", "m1", "m2"] if table == "sessions" else ["m1", "m2", "m3"]
    assert [message["id"] for message in found["s"]["messages"]] == expected


def test_columns_named_as_the_number_of_a_row_are_in_nobodys_way(tmp_path: Path) -> None:
    """`rowid` is then another column; all three names may be taken."""
    for number, names in enumerate((["rowid"], ["rowid", "oid"], ["rowid", "oid", "_rowid_"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        extra = "".join(f", {name} TEXT" for name in names)
        tables = crud.TABLES.replace("created_at)", f"created_at{extra})").replace("TIMESTAMP", f"TIMESTAMP{extra}")
        rows = [session("s", **dict.fromkeys(names, "'0'")), said("m1", "s", **dict.fromkeys(names, "'0'"))]
        _, reasons = import_here(make(folder, *rows, tables=tables))
        assert (reasons, counts(folder)) == ({}, {**GOOD, "s": 1})


def test_a_stored_computed_column_is_read(tmp_path: Path) -> None:
    """It was computed when it was written."""
    tables = crud.TABLES.replace("role TEXT NOT NULL", "kind, role TEXT AS (coalesce(kind, 'user')) STORED")
    rows = ["INSERT INTO messages (id, session_id, kind, content, created_at) VALUES ('m', 's', 'system', 'x', 0)"]
    file = tmp_path / "store.db"
    connection = apsw.Connection(str(file))
    connection.execute(tables)
    connection.execute(";".join([session("s"), *rows]))
    connection.close()
    import_here(file)
    assert sessions_here(tmp_path, "t")["s"]["messages"][0]["role"] == "system"


ENDLESS = """ALTER TABLE messages RENAME TO hidden;
CREATE VIEW messages AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n)
  SELECT n AS id, '0' AS session_id, 'user' AS role, 'x' AS content, 0 AS created_at FROM n"""
VIRTUAL = """DROP TABLE messages;
CREATE VIRTUAL TABLE messages USING fts5 (id, session_id, role, content, created_at)"""
COMPUTED = """DROP TABLE messages;
CREATE TABLE messages (id, session_id, role, created_at, content AS (hex(zeroblob(300000000))))"""
NOT_TABLES: dict[str, tuple[str, str]] = {
    "a view": (
        "ALTER TABLE sessions RENAME TO hidden; CREATE VIEW sessions AS SELECT * FROM hidden",
        "its sessions is a view and no table",
    ),
    "a view without an end": (ENDLESS, "its messages is a view and no table"),
    "a virtual table": (VIRTUAL, "its messages is a virtual and no table"),
    "a column that is computed as it is read": (COMPUTED, "its table messages has no content"),
}


@pytest.mark.parametrize("kind", NOT_TABLES)
def test_what_would_run_as_it_is_read_is_refused(tmp_path: Path, kind: str) -> None:
    """Only tables are read: what a file brings along to be run is not run."""
    statements, wanted = NOT_TABLES[kind]
    file = make(tmp_path)
    connection = apsw.Connection(str(file))
    connection.execute(statements)
    connection.close()
    assert wanted in refuse("import", "--database", "ledger.db", file, cwd=tmp_path)
    assert not (tmp_path / "ledger.db").exists()


def test_an_index_or_a_check_of_functions_of_its_own_is_in_nobodys_way(tmp_path: Path) -> None:
    """The program that made the file knows a function and a collation that nobody here does."""
    file = tmp_path / "store.db"
    connection = apsw.Connection(str(file))
    connection.create_scalar_function("ours", lambda value: value, 1, deterministic=True)
    connection.create_collation("ourway", lambda one, other: (one > other) - (one < other))
    connection.execute(crud.TABLES.replace("id TEXT PRIMARY KEY, tenant", "id TEXT COLLATE ourway, tenant"))
    connection.execute("CREATE INDEX by_ours ON messages (ours(session_id)); CREATE INDEX by_id ON sessions (id)")
    connection.execute("CREATE TRIGGER t AFTER INSERT ON messages BEGIN SELECT ours(1); END")
    connection.execute(";".join([session("B"), session("a"), said("m", "a"), said("n", "b")]))
    connection.close()
    _, reasons = import_here(file)
    assert set(reasons) == {"messages of session 'b'"}
    assert counts(tmp_path) == {"B": 0, "a": 1}


# Damage


PAGE = 1024


def paged(folder: Path, *, sessions: int = 300, long: int = 0) -> Path:
    """A store of small pages with *sessions* sessions of one message, one with a message of *long* characters."""
    connection = apsw.Connection(str(folder / "store.db"))
    connection.pragma("page_size", PAGE)
    connection.execute(crud.TABLES)
    with connection:
        for n in range(sessions):
            connection.execute(session(f"s{n:04d}", at=NOON_S + n))
            connection.execute(said(f"m{n:04d}", f"s{n:04d}", at=NOON_S + n))
        if long:
            connection.execute(session("long"))
            connection.execute(said("m-long", "long", content=f"printf('%.*c', {long}, 'x')"))
    connection.close()
    return folder / "store.db"


def pages(file: Path, table: str, kind: str) -> list[int]:
    """The numbers of the pages of a table, by their kind."""
    connection = apsw.Connection(str(file))
    rows = connection.execute(
        "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ? ORDER BY path", (table, kind)
    ).fetchall()
    connection.close()
    return [row[0] for row in rows]


def overwrite(file: Path, page: int, content: bytes = b"\xff" * PAGE) -> None:
    """Have a page hold something else."""
    with file.open("r+b") as opened:
        opened.seek((page - 1) * PAGE)
        opened.write(content)


def test_sessions_before_a_damaged_page_are_imported(tmp_path: Path) -> None:
    """With their messages; the line says behind how many it is damaged, and nobody's messages are called orphans."""
    file = paged(tmp_path)
    leaves = pages(file, "sessions", "leaf")
    overwrite(file, leaves[len(leaves) // 2])
    report, reasons = import_here(file)
    assert 50 < report.sessions < 250
    assert (report.messages, reasons) == (report.sessions, {})
    assert str(report.failure) == f"store.db is damaged behind {report.sessions} sessions; those are imported."
    found = counts(tmp_path)
    assert found == {f"s{n:04d}": 1 for n in range(report.sessions)}


@pytest.mark.parametrize("content", [b"\xff" * PAGE, bytes(PAGE), b"\x0d" * PAGE])
def test_nothing_is_imported_where_nobody_knows_which_sessions_are_whole(tmp_path: Path, content: bytes) -> None:
    """A page of messages is lost, and they may have been anybody's: a session must not come without its own."""
    file = paged(tmp_path)
    leaves = pages(file, "messages", "leaf")
    overwrite(file, leaves[len(leaves) // 2], content)
    report, reasons = import_here(file)
    assert (report.sessions, reasons) == (0, {})
    assert str(report.failure) == (
        "store.db is damaged where its messages are, so that no session is known to be whole; nothing was imported. "
        "Recover it first (sqlite3 store.db .recover)."
    )


def test_a_damaged_long_message_costs_its_session_alone(tmp_path: Path) -> None:
    """Whose it is stands before its text."""
    file = paged(tmp_path, long=20_000)
    overflow = pages(file, "messages", "overflow")
    overwrite(file, overflow[3])
    report, reasons = import_here(file)
    assert reasons == {"session 'long'": "the file is damaged where its messages are"}
    assert (report.sessions, report.messages, report.failure) == (300, 300, None)


def test_a_file_whose_pages_name_each_other_is_found_out(tmp_path: Path) -> None:
    """All children of a table's root are made the same page: the same rows would come over and over."""
    file = paged(tmp_path)
    (root,) = [page for page in pages(file, "messages", "internal") if page][:1]
    raw = bytearray(file.read_bytes())
    start = (root - 1) * PAGE
    count = int.from_bytes(raw[start + 3 : start + 5], "big")
    places = [int.from_bytes(raw[start + 12 + 2 * n : start + 14 + 2 * n], "big") for n in range(count)]
    first = raw[start + places[0] : start + places[0] + 4]
    for place in places:
        raw[start + place : start + place + 4] = first
    file.write_bytes(raw)
    report, _ = import_here(file)
    assert report.sessions == 0
    assert "damaged where its messages are" in str(report.failure)


def test_a_file_that_takes_too_much_work_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is limited by the file's size; as many steps as a good one needs are within it by far."""
    file = paged(tmp_path, sessions=3_000)
    with monkeypatch.context() as patched:
        patched.setattr(foreign_file, "FOREIGN_STEPS_MIN", 0)
        patched.setattr(foreign_file, "FOREIGN_CHECK_STEPS", 100)
        patched.setattr(foreign_file, "FOREIGN_STEPS_PER_BYTE", foreign_file.FOREIGN_STEPS_PER_BYTE // 10)
        assert import_here(file)[0].sessions == 3_000
    (tmp_path / "ledger.db").unlink()
    for views in tmp_path.glob("ledger.db.views*"):
        views.unlink()
    monkeypatch.setattr(foreign_file, "FOREIGN_STEPS_MIN", 1_000)
    monkeypatch.setattr(foreign_file, "FOREIGN_CHECK_STEPS", 100)
    monkeypatch.setattr(foreign_file, "FOREIGN_STEPS_PER_BYTE", 0)
    report, _ = import_here(file)
    assert str(report.failure) == "store.db takes more work to read than a file of its size can need."


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_damage_is_a_traceback_or_a_session_without_its_messages(tmp_path: Path, seed: int) -> None:
    """Random bytes over random places: what is imported is as it was, whole; else there is a reason."""
    file = paged(tmp_path, sessions=120, long=3_000)
    chance = random.Random(seed)
    raw = bytearray(file.read_bytes())
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(100, len(raw) - 64)
        raw[place : place + 32] = chance.randbytes(32)
    file.write_bytes(raw)
    try:
        report, reasons = import_here(file)
    except RefusedToStart as refused:
        assert "store.db" in str(refused), seed  # noqa: PT017  # both ends are fine
        return
    found = sessions_here(tmp_path, "t")
    assert report.sessions >= len(found)
    for name, got in found.items():
        messages = [message["id"] for message in got["messages"]]
        if name == "long" or (name.startswith("s") and len(name) == 5):
            assert messages == [f"m-{name}" if name == "long" else f"m{name[1:]}"] or reasons or report.failure, seed


def test_a_disk_that_is_full_of_temporary_files_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no damage."""
    file = make(tmp_path)

    def full(*_: object) -> None:
        raise apsw.FullError("FullError: database or disk is full")

    monkeypatch.setattr(crud_order.Order, "prepare", full)
    report, _ = import_here(file)
    assert str(report.failure) == (
        "There is no room for the temporary files that reading store.db takes (SQLITE_TMPDIR)."
    )


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_store_that_is_written_to_meanwhile_is_read_as_it_was(tmp_path: Path, journal_mode: str) -> None:
    """All of it is of one moment, though it takes many statements; or its program has to wait."""
    file = make(tmp_path, session("s", at=NOON_S + 1), said("m", "s", at=NOON_S + 1))
    writer = apsw.Connection(str(file))
    writer.pragma("journal_mode", journal_mode)
    with closing(importer.open_source(file, Settings(), tenant_id="t")) as source:
        items = iter(source.items)
        first = next(items)
        try:
            writer.execute("DELETE FROM messages; DELETE FROM sessions")
        except apsw.BusyError:
            assert journal_mode == "delete"
        else:
            assert journal_mode == "wal"
        found = [first, *items]
    writer.close()
    assert [(item.session_id, len(item.command.messages)) for item in found if isinstance(item, Found)] == [
        ("0", 1),
        ("z", 1),
        ("s", 1),
    ]
