"""Which sessions of a file are there already, whatever has become of them; and in which order all of them come."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chatledger.domain.commands import ForkSession
from chatledger.domain.events import ForkedFrom, SessionCreated
from chatledger.ledger import event_store
from chatledger.transfer import importer
from chatledger.transfer.importer import Report
from chatledger.writing import erasure
from chatledger.writing.command_group import Submission
from support import crud
from support.command import run, succeed, write_lines
from support.imports import exported_here, import_here, sessions_here
from support.server import Server
from support.store import Store, append, create, delete, message, remove, submit, update

Json = dict[str, Any]

MESSAGES = (message("m1", "one"), message("m2", "two"), message("m3", "three", parent_id="m2"))
BEGINNING = [create("s", *MESSAGES, title="T", user_id="u")]
WENT_ON: dict[str, list[Submission]] = {
    "nothing": [],
    "renamed": [update("s", title="Another")],
    "renamed to nothing": [update("s", title=None)],
    "of another user": [update("s", user_id="v")],
    "traits patched": [update("s", traits={"a": {"b": 1}}), update("s", traits={"a": None, "c": 2})],
    "archived": [update("s", archived=True)],
    "grown": [append("s", message("m4", "four"))],
    "a message removed": [remove("s", "m1")],
    "a parent removed": [remove("s", "m2")],
    "all messages removed": [remove("s", name) for name in ("m1", "m2", "m3")],
    "everything": [
        remove("s", "m2"),
        update("s", title="Another", traits={"a": 1}),
        append("s", message("m4", "four", parent_id="m3")),
        remove("s", "m4"),
        update("s", archived=True),
    ],
}


def commit(folder: Path, submissions: Sequence[Submission]) -> None:
    """Commit each of them in a group of its own."""
    with Store(folder / "ledger.db") as store:
        for submission in submissions:
            store.commit_all(submission)


def taken(folder: Path, name: str = "export") -> Path:
    """The export of the ledger in a folder, in a file."""
    (folder / name).write_bytes(exported_here(folder))
    return folder / name


@pytest.mark.parametrize("change", WENT_ON)
def test_an_export_is_there_already_where_it_is_from(tmp_path: Path, change: str) -> None:
    """The one of before the change, the one of behind it, and again when the session has gone on since."""
    commit(tmp_path, BEGINNING)
    exports = [taken(tmp_path, "before")]
    commit(tmp_path, WENT_ON[change])
    exports.append(taken(tmp_path, "after"))
    for _ in range(2):
        for export in exports:
            assert import_here(export) == (Report(present=1), {}), export.name
        commit(tmp_path, [update("s", title="Later", traits={"z": 1}), append("s", message())])
    assert len(sessions_here(tmp_path)["s"]["messages"]) >= 2


@pytest.mark.parametrize("change", WENT_ON)
def test_a_standby_that_is_fed_by_exports_keeps_what_it_has(tmp_path: Path, change: str) -> None:
    """It has the first export; what a later one says more of that session is named, and the session stays as it is."""
    commit(tmp_path, BEGINNING)
    standby = tmp_path / "standby"
    standby.mkdir()
    taken(tmp_path).rename(standby / "first")
    assert import_here(standby / "first") == (Report(sessions=1, messages=3), {})
    before = sessions_here(standby)
    commit(tmp_path, WENT_ON[change])
    taken(tmp_path).rename(standby / "second")
    report, reasons = import_here(standby / "second")
    expected = {
        "renamed": "is there with another title",
        "renamed to nothing": "is there with another title",
        "of another user": "is there with another user_id",
        "traits patched": "is there with another traits",
        "grown": "is there with 3 messages, the file has 1 more",
        "everything": "is there with another title, traits",
    }.get(change)
    assert reasons == ({} if expected is None else {"line 1": f"session s {expected}"})
    assert (report.sessions, report.present) == (0, int(expected is None))
    assert sessions_here(standby) == before


def test_a_session_that_was_deleted_is_said_to_be(tmp_path: Path) -> None:
    """It does not come back, and nobody takes it for present; one that was erased neither."""
    commit(tmp_path, [create("kept"), create("gone", message("m1")), create("erased", message("m1"))])
    export = taken(tmp_path)
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(delete("gone"))
        erasure.erase(store.committer, tenant_id="default", session_id="erased", reason="asked", actor="cli")
        erasure.finish_now(store.committer)
        head = event_store.head(store.ledger).position
    report, reasons = import_here(export)
    assert (report.present, report.rejected) == (1, 2)
    assert reasons == {"line 2": "session gone was deleted here", "line 3": "session erased was erased here"}
    assert list(sessions_here(tmp_path)) == ["kept"]
    with Store(tmp_path / "ledger.db") as store:
        assert event_store.head(store.ledger).position == head
        store.commit_all(delete("kept"))
    done = run("import", "--database", "ledger.db", "export", cwd=tmp_path)
    assert done.stdout.strip() == "0 sessions with 0 messages imported, 0 were there already, 3 rejected"
    assert done.returncode == 1
    assert "line 1: session kept was deleted here\n" in done.stderr


OLD = "2020-01-01T00:00:00Z"
M3 = {"id": "m3", "parent_id": "m2"}
MORE: dict[str, tuple[list[Json], str | None]] = {
    "one more": (
        [{"id": "m1"}, {"id": "m2"}, {"id": "m3", "parent_id": "m2"}, {"id": "m4"}],
        "with 3 messages, the file has 1 more",
    ),
    "one more in the middle": ([{"id": "m1"}, {"id": "x"}, {"id": "m2"}], "with 3 messages, the file has 1 more"),
    "others only": ([{"id": "x"}, {"id": "y"}], "with 3 messages, the file has 2 more"),
    "another text": ([{"id": "m1"}, {"id": "m2", "content": "2"}], "and its message m2 says something else"),
    "another role": ([{"id": "m1", "role": "assistant"}], "and its message m1 says something else"),
    "another parent": ([{"id": "m1"}, {"id": "m2"}, {"id": "m3", "parent_id": "m1"}], "and its message m3 says"),
    "another order": ([{"id": "m2"}, {"id": "m1"}], "with its messages in another order"),
    "another time": ([{"id": "m1", "created_at": OLD}], "and its message m1 says something else"),
    "fewer": ([{"id": "m2"}], None),
    "none": ([], None),
    "without ids": ([{"content": "one"}, {"content": "three"}], None),
    "without ids, more": ([{"content": "three"}, {"content": "four"}], "with 3 messages, the file has 1 more"),
    "some with ids": ([{"content": "one"}, {"id": "m3"}], None),
    "without the parent": ([{"id": "m1"}, {"id": "m3", "content": "three"}], None),
}
TEXTS = {"m1": "one", "m2": "two", "m3": "three", "m4": "four", "x": "x", "y": "y"}


@pytest.mark.parametrize("kind", MORE)
def test_a_file_that_has_more_than_the_ledger_says_what(tmp_path: Path, kind: str) -> None:
    """A message more, or another one under its id; what it has less is there."""
    commit(tmp_path, BEGINNING)
    given, expected = MORE[kind]
    messages = [{"role": "user", "content": TEXTS.get(each.get("id", ""), ""), **each} for each in given]
    file = write_lines(tmp_path / "file", [{"id": "s", "title": "T", "user_id": "u", "messages": messages}])
    report, reasons = import_here(file)
    assert (report.present, report.rejected) == (int(expected is None), int(expected is not None))
    assert expected is None or expected in reasons["line 1"]
    assert len(sessions_here(tmp_path)["s"]["messages"]) == 3


@pytest.mark.parametrize(
    ("member", "value"),
    [("title", "U"), ("title", None), ("user_id", "v"), ("traits", {"a": 1}), ("created_at", OLD)],
)
def test_what_the_session_never_was_is_named(tmp_path: Path, member: str, value: object) -> None:
    """A title, a user, traits or a time of creation that it has had at no time."""
    commit(tmp_path, BEGINNING)
    file = write_lines(tmp_path / "file", [{"id": "s", "title": "T", "user_id": "u", member: value}])
    assert import_here(file)[1] == {"line 1": f"session s is there with another {member}"}


def test_a_title_of_one_time_and_a_user_of_another_are_no_state_of_it(tmp_path: Path) -> None:
    """All of a line has to have been true at once; what it was at any time is enough."""
    commit(tmp_path, [*BEGINNING, update("s", title="U"), update("s", user_id="v"), update("s", title="T")])
    for title, user, present in (("T", "u", 1), ("U", "u", 1), ("U", "v", 1), ("T", "v", 1), ("U", "w", 0)):
        file = write_lines(tmp_path / "file", [{"id": "s", "title": title, "user_id": user}])
        assert import_here(file)[0].present == present, (title, user)


def test_a_fork_is_there_already(tmp_path: Path) -> None:
    """An export says nothing of where it came from."""
    commit(tmp_path, BEGINNING)
    copied = (message("m1", "one"), message("m2", "two"))
    fork = ForkSession(source=ForkedFrom("s", 3), created=SessionCreated(title="F"), messages=copied, total=2)
    commit(tmp_path, [submit("f", fork), append("f", message("m9")), remove("f", "m1")])
    assert import_here(taken(tmp_path)) == (Report(present=2), {})


def test_a_crud_store_is_there_already_whatever_was_changed_since(tmp_path: Path) -> None:
    """Imported twice, with everything that can be done to a session in between; what was deleted is named."""
    rows = [(name, "default", "u", None, 0) for name in ("a", "b", "c")]
    file = crud.make(tmp_path / "store.db", rows, [(f"m-{name}", name, "user", name, 1) for name in ("a", "b", "c")])
    assert import_here(file) == (Report(sessions=3, messages=3), {})
    commit(tmp_path, [update("a", title="T", archived=True), remove("a", "m-a"), append("b", message()), delete("c")])
    report, reasons = import_here(file)
    assert (report.present, reasons) == (2, {"session 'c'": "session c was deleted here"})


def test_presence_is_asked_of_the_ledger_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of several groups leaves the views behind, and these are not to be read then."""
    monkeypatch.setattr(importer, "GROUP_EVENTS", 2)
    commit(tmp_path, [*BEGINNING, update("s", title="U"), create("gone"), delete("gone")])
    lines = [{"id": f"new-{n}"} for n in range(5)]
    lines[3:3] = [{"id": "s", "title": "U", "user_id": "u", "messages": []}, {"id": "gone"}]
    report, reasons = import_here(write_lines(tmp_path / "file", lines))
    assert (report.sessions, report.present, list(reasons)) == (5, 1, ["line 5"])


# The order of activity


def listed(folder: Path) -> list[str]:
    """The ids of sessions as readers list them, last active first."""
    with Server(folder / "ledger.db", cwd=folder) as server, server.client() as client:
        found = [each["id"] for each in client.get("/v1/sessions?limit=200").json()["data"]]
        archived = [each["id"] for each in client.get("/v1/sessions?limit=200&archived=true").json()["data"]]
        assert server.stop() == 0
    return found + archived


def test_an_export_and_its_import_keep_the_order_of_the_list(tmp_path: Path) -> None:
    """a, b, c last active in that order came out as c, b, a: by their ids, which are random."""
    names = ["c", "a", "d", "b"]
    commit(tmp_path, [create(name) for name in names])
    commit(tmp_path, [append("a", message()), update("d", title="T"), append("c", message()), create("e"), delete("b")])
    expected = listed(tmp_path)
    assert expected == ["e", "c", "d", "a"]
    other = tmp_path / "other"
    other.mkdir()
    succeed("export", "--database", "ledger.db", "--output", "export", cwd=tmp_path)
    succeed("import", "--database", "other/ledger.db", "export", cwd=tmp_path)
    assert listed(other) == expected
    again = succeed("export", "--database", "other/ledger.db", cwd=tmp_path)
    assert again == (tmp_path / "export").read_text("utf-8")


def test_an_export_of_more_sessions_than_a_page_keeps_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archived ones among them, each once."""
    monkeypatch.setattr("chatledger.transfer.exporter._PAGE", 3)
    names = [f"s{n * 7 % 20:02d}" for n in range(20)]
    commit(tmp_path, [create(name, message("m")) for name in names])
    commit(tmp_path, [update(name, archived=True) for name in names[::3]])
    expected = [name for n, name in enumerate(names) if n % 3] + names[::3]
    assert [json.loads(line)["id"] for line in exported_here(tmp_path).splitlines()] == expected


def test_sessions_of_a_file_are_written_in_its_order(tmp_path: Path) -> None:
    """Whatever their ids and times are: so that whoever makes a file decides."""
    lines = [{"id": name, "created_at": f"20{n:02d}-01-01T00:00:00Z"} for n, name in zip((9, 5, 7), "bca", strict=True)]
    import_here(write_lines(tmp_path / "file", lines))
    assert list(sessions_here(tmp_path)) == ["b", "c", "a"]
