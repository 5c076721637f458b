"""One bad session never costs another one: a file of many is imported as each of its sessions is alone."""

import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from chatledger.domain.events import Event, MessageAppended
from chatledger.storage.connection import Connection
from chatledger_projections.projection import Projection
from support import crud
from support.command import write_lines
from support.imports import import_here, sessions_here

SEEDS = range(12)
ID = "self"
LIMIT_BYTES = 20_000
HELLO = {"role": "user", "content": "Hello"}
THEN = "2020-01-01T00:00:00Z"


class Alone(NamedTuple):
    """What becomes of a session that is the only one of its file: the session, or the reason without its place."""

    session: dict[str, Any] | None
    reason: str | None


def look(folder: Path, file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Import a file: all sessions of the tenant `default`, and the reasons by places."""
    report, reasons = import_here(file, import_line_bytes_max=LIMIT_BYTES)
    assert report.failure is None
    found = sessions_here(folder)
    assert report.sessions == len(found)
    return found, reasons


def alone(folder: Path, file: Path) -> Alone:
    """The same of a file of one session."""
    found, reasons = look(folder, file)
    assert len(found) + len(reasons) == 1, "a session is there, or it is named"
    return Alone(next(iter(found.values()), None), next(iter(reasons.values()), None))


# JSON lines


def line(**members: Any) -> bytes:
    """A line of a session of the id `self`."""
    return json.dumps({"id": ID, "messages": [{"id": "m1", **HELLO}, {"id": "m2", **HELLO}], **members}).encode()


def nested(depth: int) -> bytes:
    """A line whose traits are so deep."""
    return b'{"id": "self", "traits": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


LINES: dict[str, bytes] = {
    "good": line(title="é😀", traits={"a": [1, None]}),
    "good without ids": line(messages=[HELLO, HELLO]),
    "good and empty": line(messages=[]),
    "good with a parent": line(messages=[{"id": "m1", **HELLO}, {"id": "m2", "parent_id": "m1", **HELLO}]),
    "good with times": line(
        created_at="2020-01-01T00:00:00Z", messages=[{**HELLO, "created_at": "2021-01-01T00:00:00Z"}]
    ),
    "good and long": line(messages=[{"role": "user", "content": "x" * 15_000}]),
    "cut": line()[:-3],
    "no object": b'["self"]',
    "two values": line() + line(),
    "no UTF-8": line(title="?").replace(b"?", b"\xed\xa0\xbd"),
    "half a pair": line(title="?").replace(b"?", b"\\ud83d"),
    "a NUL": line(title="?").replace(b"?", b"\\u0000"),
    "too long": line(title="x" * LIMIT_BYTES),
    "far too long": line(title="x" * (3 * LIMIT_BYTES + 7)),
    "deep": nested(200),
    "far too deep": nested(1_500),
    "an id of other characters": line().replace(b'"self"', b'"self!"'),
    "another member": line(tittle="T"),
    "a title that is none": line(title=5),
    "traits that are none": line(traits=[1]),
    "a time that is none": line(created_at="yesterday"),
    "another role": line(messages=[HELLO, {"role": "robot", "content": ""}]),
    "no content": line(messages=[HELLO, {"role": "user"}]),
    "an id twice": line(messages=[{"id": "m", **HELLO}, {"id": "m", **HELLO}]),
    "a parent elsewhere": line(messages=[HELLO, {"parent_id": "m9", **HELLO}]),
    "a message's id that is none": line(messages=[HELLO, {"id": "a b", **HELLO}]),
    "a message's time that is none": line(messages=[{**HELLO, "created_at": "2020-01-01"}]),
}


@cache
def line_alone(folder: Path, kind: str) -> Alone:
    """What becomes of such a line alone."""
    place = folder / f"line-{list(LINES).index(kind)}"
    place.mkdir()
    (place / "file").write_bytes(LINES[kind])
    return alone(place, place / "file")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sessions that are alone go."""
    return tmp_path_factory.mktemp("alone")


def name(number: int) -> str:
    """The id of a session in a file of many, as long as `self`."""
    return f"s{number:03d}"


def expected_of(
    kinds: Sequence[str], found: Callable[[str], Alone], where: Callable[[int], str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file of sessions of these kinds has to come to: sessions, and reasons by places."""
    sessions, reasons = {}, {}
    for number, kind in enumerate(kinds):
        session, reason = found(kind)
        if session is not None:
            sessions[name(number)] = {**deepcopy(session), "id": name(number)}
        if reason is not None:
            reasons[where(number)] = reason.replace(ID, name(number))
    return sessions, reasons


def as_given(sessions: dict[str, dict[str, Any]], kinds: Sequence[str]) -> dict[str, Any]:
    """Sessions of lines without what the service has made for them: ids and times that the line does not say."""
    kept = {}
    for session_id, session in sessions.items():
        given = json.loads(LINES[kinds[int(session_id[1:])]])
        assert len(session["messages"]) == len(given["messages"])
        kept[session_id] = _only(session, given) | {
            "messages": [_only(*both) for both in zip(session["messages"], given["messages"], strict=True)]
        }
    return kept


def _only(found: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in {"id", "created_at"} or key in given}


@pytest.mark.parametrize("seed", SEEDS)
def test_lines_are_imported_as_each_of_them_is_alone(tmp_path: Path, once: Path, seed: int) -> None:
    """In any order and mixture; each bad one is named once, by its line."""
    chance = random.Random(seed)
    kinds = chance.choices(list(LINES), k=30)
    kinds[chance.randrange(15)] = "good"  # else it could be another file altogether
    texts = [LINES[kind].replace(ID.encode(), name(number).encode()) for number, kind in enumerate(kinds)]
    between = chance.choice([1, 2])  # the ends of a line
    (tmp_path / "file").write_bytes((b"\n" * between).join(texts))
    found, reasons = look(tmp_path, tmp_path / "file")
    sessions, expected = expected_of(
        kinds, lambda kind: line_alone(once, kind), lambda number: f"line {1 + number * between}"
    )
    assert as_given(found, kinds) == as_given(sessions, kinds), kinds
    assert reasons == expected, kinds
    assert list(found) == sorted(found)


# What a projection of one's own cannot take


def refuse_in_python(db: Connection, events: Sequence[Event]) -> None:
    """A projection that has a bug with one text."""
    del db
    if any(
        isinstance(event.data, MessageAppended) and b"poison" in bytes(event.data.message.content) for event in events
    ):
        raise ZeroDivisionError


IN_PYTHON = Projection(name="own", version=1, tables="", apply=refuse_in_python)
IN_SQL = Projection(
    name="own",
    version=1,
    tables="CREATE TABLE own (position INTEGER PRIMARY KEY, text TEXT CHECK (text <> 'poison')) STRICT;",
    program="""INSERT INTO own SELECT position, payload ->> '$.message.content' FROM batch
      WHERE type = 'message.appended';""",
)


@pytest.mark.parametrize("projection", [IN_PYTHON, IN_SQL], ids=["python", "sql"])
def test_what_a_projection_of_ones_own_refuses_costs_its_session_alone(tmp_path: Path, projection: Projection) -> None:
    """It was the end of the import: the others of its group were lost, and nobody knew which one it was."""
    sessions = [
        {"id": f"s{n}", "messages": [{"role": "user", "content": "poison" if n in {3, 7} else "fine"}]}
        for n in range(10)
    ]
    file = write_lines(tmp_path / "file", sessions)
    report, reasons = import_here(file, [projection])
    assert (report.sessions, report.rejected) == (8, 2)
    assert list(reasons) == ["line 4", "line 8"]
    assert all("cannot be taken: A projection refuses it" in reason for reason in reasons.values())
    assert list(sessions_here(tmp_path)) == [f"s{n}" for n in range(10) if n not in {3, 7}]


# The CRUD store's file


HALF_AN_EMOJI = "CAST(x'6869eda0bd' AS TEXT)"
TIMES = ("1715774400", "1715774400000", "'2024-05-15 12:00:00'", "'2024-05-15T14:00:00+02:00'")


def row(table: str, **values: str) -> str:
    """The INSERT of a row; *values* are SQL."""
    return f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"


def stored(*messages: dict[str, str], **values: str) -> list[str]:
    """A session of the id `self` with messages; *values*, and theirs, are SQL and take the place of good ones."""
    session = {"id": "'self'", "tenant_id": "NULL", "traits": "NULL", "created_at": "1715774400", **values}
    rows = [row("sessions", **session)]
    for number, message in enumerate(messages):
        good = {"id": f"'self-{number}'", "session_id": "'self'", "role": "'user'", "content": "'Hello'"}
        rows.append(row("messages", **{**good, "created_at": TIMES[number % len(TIMES)], **message}))
    return rows


STORED: dict[str, list[str]] = {
    "good": stored({}, {}, {}, user_id="'é😀'", traits="""'{"a": [1, null]}'"""),
    "good and empty": stored(),
    "good and long": stored({"content": "printf('%.*c', 15000, 'x')"}),
    "good by case": stored({}, {"session_id": "'SELF'"}),
    "good without message ids": stored({"id": "'self-a'"}, {"content": "''"}),
    "an id that is none": stored({"session_id": "'self!'"}, id="'self!'"),
    "a blob for an id": stored({"session_id": "x'73656c66'"}, id="x'73656c66'"),
    "no UTF-8 in a message": stored({}, {"content": HALF_AN_EMOJI}),
    "no UTF-8 in a role": stored({"role": HALF_AN_EMOJI}),
    "no UTF-8 in traits": stored({}, traits=HALF_AN_EMOJI),
    "no UTF-8 in a user": stored({}, user_id=HALF_AN_EMOJI),
    "no UTF-8 in a time": stored({}, created_at=HALF_AN_EMOJI),
    "too long": stored({"content": "printf('%.*c', 25000, 'x')"}),
    "too long together": stored(*[{"content": "printf('%.*c', 5000, 'x')"}] * 5),
    "traits that are none": stored({}, traits="'{'"),
    "traits that are far too deep": stored({}, traits=f"""'{'{"a":' * 1500}1{"}" * 1500}'"""),
    "a number for a user": stored({}, user_id="5"),
    "a time that is none": stored({}, created_at="'yesterday'"),
    "a message's time that is none": stored({}, {"created_at": "x'00'"}),
    "another role": stored({}, {"role": "'robot'"}),
    "a number for a content": stored({}, {"content": "5"}),
    "a NUL": stored({}, {"content": "'a' || char(0) || 'b'"}),
    "a tenant that is none": stored({}, tenant_id="'not an id'"),
    "messages alone": stored({}, {})[1:],
}
PLACES = {"an id that is none": "session '{}!'", "messages alone": "messages of session '{}'"}
PLACES["a blob for an id"] = "session b'{}'"
TABLES = {
    "as a rule": crud.TABLES.replace("session_id TEXT", "session_id TEXT COLLATE NOCASE"),
    "without rowid": crud.TABLES.replace("session_id TEXT", "session_id TEXT COLLATE NOCASE").replace(
        ");", ") WITHOUT ROWID;"
    ),
}


def store(file: Path, tables: str, statements: Sequence[str]) -> Path:
    """A CRUD store's file."""
    connection = apsw.Connection(str(file))
    connection.execute(TABLES[tables])
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return file


@cache
def stored_alone(folder: Path, kind: str, tables: str) -> Alone:
    """What becomes of such a session alone."""
    place = folder / f"store-{list(STORED).index(kind)}-{tables.replace(' ', '-')}"
    place.mkdir()
    return alone(place, store(place / "store.db", tables, STORED[kind]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tables", TABLES)
def test_stored_sessions_are_imported_as_each_of_them_is_alone(
    tmp_path: Path, once: Path, seed: int, tables: str
) -> None:
    """With their rows between each other in any order; each bad one is named once, by its id."""
    chance = random.Random(seed)
    kinds = chance.choices(list(STORED), k=30)
    rows = [[_renamed(text, number) for text in STORED[kind]] for number, kind in enumerate(kinds)]
    mixed: list[str] = []
    while any(rows):  # each session's own in their order
        mixed.append(chance.choice([each for each in rows if each]).pop(0))
    found, reasons = look(tmp_path, store(tmp_path / "store.db", tables, mixed))
    sessions, expected = expected_of(
        kinds,
        lambda kind: stored_alone(once, kind, tables),
        lambda number: PLACES.get(kinds[number], "session '{}'").format(name(number)),
    )
    for session_id, session in sessions.items():
        for message in session["messages"]:
            message["id"] = message["id"].replace(ID, session_id)
    assert found == sessions, kinds
    assert reasons == expected, kinds


def _renamed(statement: str, number: int) -> str:
    text = statement.replace(ID, name(number)).replace(ID.upper(), name(number).upper())
    return text.replace(ID.encode().hex(), name(number).encode().hex())
