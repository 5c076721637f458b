"""Erasing a session: its content is in no file any more, whatever came before, and all else stays (rule 9)."""

import contextlib
import hashlib
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatledger.domain.commands import EraseSession
from chatledger.errors import ErasurePending, NotFound, VersionConflict
from chatledger.ledger import event_store
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.proofs import bundle, verification
from chatledger.proofs.signed_heads import Signer
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors, transactions, wal
from chatledger.storage.connection import Connection, open_writer
from chatledger.transfer import exporter
from chatledger.views import builder
from chatledger.writing import erasure, erasure_list
from chatledger.writing.command_group import Committed
from chatledger.writing.erasure import Eraser, State
from chatledger_projections import sessions
from support.canary import CANARY, copied, found_beside_views, found_in
from support.store import Store, append, create, delete, message, remove, run, submit, update
from support.tables import dump, dump_rebuilt, wrong_leaves

LONG = f"{CANARY} " * 1_000
REASON = "request 17"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder, with nothing else in it."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """An open store whose session `s` has the canary everywhere, between others that do not."""
    with Store(folder / "ledger.db") as opened:
        fill(opened)
        yield opened


def fill(store: Store, session: str = "s", text: str = CANARY) -> None:
    """Write a session of which every text holds *text*, interleaved with others."""
    key = IdempotencyKey("k-" + session, hashlib.sha256(b"x").digest())
    made = create(session, message("m0", text, name=text), title=text, user_id=text, traits=msgspec.Raw(traits(text)))
    store.commit_all(msgspec.structs.replace(made, idempotency_key=key), create("o-" + session, message("m0", "kept")))
    for number in range(1, 60):
        content = f"{text} " * (1_000 if number % 20 == 0 else number)
        store.commit_all(
            append(session, message(f"m{number}", content, metadata={"note": text})),
            append("o-" + session, message(f"m{number}", "kept " * number)),
        )
    store.commit_all(remove(session, "m3"), update(session, title=f"{text} again", traits={"more": text * 40}))


def traits(text: str) -> bytes:
    """Traits with *text* in a name and a value."""
    return msgspec.json.encode({text: [text]})


def erase(session: str = "s", *, if_match: int | None = None, key: IdempotencyKey | None = None) -> object:
    """The command in its envelope."""
    return submit(session, EraseSession(REASON), if_match=if_match, key=key)


def finish(store: Store) -> None:
    """What the writer does behind the group."""
    assert erasure.finish(store.committer, wait_ms=100)


def scrub(store: Store) -> None:
    """What follows within `CHATLEDGER_SCRUB_S`: views that were built since."""
    store.views.rebuild(store.ledger)
    finish(store)


def leaves(store: Store) -> list[tuple[object, ...]]:
    """All that must stay of each event."""
    return store.ledger.execute(
        "SELECT position, stream, version, type, schema, recorded_at, actor, request_id, leaf FROM events"
    ).fetchall()


def test_no_file_holds_the_content_afterwards(store: Store, folder: Path) -> None:
    """Neither the ledger, in a page's unused part or elsewhere, nor a log; once the views are built anew, no file."""
    assert {"ledger.db-wal", "ledger.db.views.000001.db-wal"} <= set(found_in(folder))
    store.commit_all(erase())
    finish(store)
    assert found_beside_views(folder) == []
    scrub(store)
    assert found_in(folder) == []
    store.close()
    assert found_in(folder) == []
    store.open()


def test_it_is_gone_from_checkpointed_files_too(store: Store, folder: Path) -> None:
    """Also where the content has long been in the databases themselves."""
    store.close()
    assert {"ledger.db", "ledger.db.views.000001.db"} <= set(found_in(folder))
    store.open()
    store.commit_all(erase())
    finish(store)
    assert found_beside_views(folder) == []
    scrub(store)
    assert found_in(folder) == []


@pytest.mark.parametrize("events", [12, 40, 400, 3_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_the_first_rows_of_a_ledger_go_too(tmp_path: Path, events: int) -> None:
    """When a page becomes the root of a larger tree SQLite copies its rows: these copies were found in a trial."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"), create("o"))
        for number in range(min(events, 300) // 2):
            store.commit_all(append("s", message(f"m{number}", f"{CANARY} {number}")))
        while (left := events - store.views.position) > 0:
            store.commit_all(append("o", *(message(None, "kept") for _ in range(min(left, 500)))))
        store.commit_all(erase())
        finish(store)
        assert found_beside_views(tmp_path) == []
    assert found_beside_views(tmp_path) == []


def test_without_secure_delete_the_first_rows_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded bug: the writer does not overwrite what it frees."""
    opened = open_writer

    def without(*args: Any, **options: Any) -> Connection:
        connection = opened(*args, **options)
        connection.pragma("secure_delete", "off")
        return connection

    monkeypatch.setattr(ledger_file, "open_writer", without)
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))
        for number in range(150):
            store.commit_all(append("s", message(f"m{number}", f"{CANARY} {number}")))
        store.commit_all(erase())
        finish(store)
        assert found_beside_views(tmp_path) != []


def test_a_row_that_changes_its_size_leaves_copies(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded bug: payloads become NULL, as in earlier versions. Rows behind them move, and their copies stay."""
    store.ledger.execute("DROP TRIGGER events_update")
    removal = "UPDATE events SET payload = NULL, salt = NULL WHERE position IN (SELECT value FROM json_each(?))"
    monkeypatch.setattr(erasure, "_OVERWRITE_PAYLOADS", removal)
    interleave(store)
    for number in range(8):
        store.commit_all(erase(f"x{number}"))
        finish(store)
    assert found_beside_views(folder) != []


def test_the_ledger_hardly_grows_and_the_views_do_not(store: Store) -> None:
    """A commitment for each erased event, and the erasure itself."""

    def sizes() -> tuple[int, int]:
        store.close()
        found = Path(store.location.ledger).stat().st_size, Path(store.location.views(store.views.generation))
        store.open()
        return found[0], found[1].stat().st_size

    store.commit_all(*(create(f"e{n}", *(message(f"m{k}", "x" * 200) for k in range(60))) for n in range(40)))
    ledger_before, views_before = sizes()
    for number in range(40):
        store.commit_all(erase(f"e{number}"))
    finish(store)
    ledger_after, views_after = sizes()
    assert ledger_after - ledger_before < 40 * 400 + 40 * 61 * 64
    assert views_after <= views_before


def test_all_else_stays(store: Store, tmp_path: Path) -> None:
    """Envelopes and leaves of all events, the payloads of other sessions, and live rows are those of a rebuild."""
    before, others = leaves(store), payloads_of(store, "o-s")
    store.commit_all(erase())
    finish(store)
    assert leaves(store)[: len(before)] == before
    assert payloads_of(store, "o-s") == others
    assert payloads_of(store, "s")[:-1] == [None] * (len(payloads_of(store, "s")) - 1)
    assert wrong_leaves(store.ledger) == []
    assert dump_rebuilt(store, tmp_path) == dump(store.views.db)


def payloads_of(store: Store, session: str) -> list[bytes | None]:
    """In order of version."""
    stream = event_store.find_stream(store.ledger, "default", session)
    assert stream is not None
    return [record.payload for record in event_store.read_stream(store.ledger, stream)]


def test_the_commitments_that_are_kept_give_the_same_leaves(store: Store, folder: Path) -> None:
    """`verify` reads the whole ledger, erased events included, and finds nothing wrong."""
    store.commit_all(erase())
    finish(store)
    with closing(ledger_file.open_ledger_reader(store.location, store.settings)) as reader:
        assert verification.verify_ledger(reader).size == event_store.head(store.ledger).position
    assert found_beside_views(folder) == []


def test_nobody_is_shown_what_is_about_to_go(store: Store) -> None:
    """Until the last step payloads are still in the ledger: no listing, proof, export or repeat has them."""
    key = IdempotencyKey("k-m", hashlib.sha256(b"y").digest())
    store.commit_all(msgspec.structs.replace(append("s", message("last", CANARY)), idempotency_key=key), erase())
    assert payloads_of(store, "s")[1] is not None
    audit, signer = store.audit(), Signer.new("test")
    shown = [
        run(audit.session_events("s", after=0, limit=100)).events,
        run(audit.events(after=0, limit=100, event_type=None)).events,
    ]
    shown.append([line for _, line in exporter.event_lines(store.ledger, tenant_id=None)])
    shown.append([line for _, line in exporter.session_event_lines(store.ledger, "default", "s")])
    _, proof = run(audit.proof("s", signer))
    for documents in (*shown, [proof]):
        assert documents
        assert CANARY.encode() not in b"".join(documents)
    assert bundle.check(proof).erased == bundle.check(proof).events - 1
    for known in (key, IdempotencyKey("k-s", hashlib.sha256(b"x").digest())):
        with pytest.raises(NotFound):
            run(store.tenant().replayed(known))


def test_a_deleted_session_can_be_erased(store: Store, folder: Path) -> None:
    """Also in the same group as its deletion; and twice is once."""
    first, second, third = store.commit_all(delete("s"), erase(), erase())
    assert (second.version, third.version) == (first.version + 1, first.version + 1)
    finish(store)
    assert found_beside_views(folder) == []
    (again,) = store.commit_all(erase(if_match=1))
    assert again.version == second.version


def test_a_session_that_never_was_is_not_found(store: Store) -> None:
    """Nor one of another tenant."""
    (nothing, foreign) = store.commit(
        submit("nothing", EraseSession(REASON)), submit("s", EraseSession(REASON), tenant="b")
    )
    assert isinstance(nothing, NotFound)
    assert isinstance(foreign, NotFound)


def test_a_stale_version_is_refused(store: Store) -> None:
    """Of a session that is there, and of one that is deleted."""
    (stale,) = store.commit(erase(if_match=1))
    assert isinstance(stale, VersionConflict)
    (gone,) = store.commit_all(delete("s"))
    (stale,) = store.commit(erase(if_match=gone.version - 1))
    assert isinstance(stale, VersionConflict)
    (done,) = store.commit(erase(if_match=gone.version))
    assert isinstance(done, Committed)


def test_an_old_key_leads_to_nothing(store: Store) -> None:
    """The repeat of a request to the erased session finds no session, and nothing of its content."""
    store.commit_all(erase())
    finish(store)
    key = IdempotencyKey("k-s", hashlib.sha256(b"x").digest())
    (outcome,) = store.commit(msgspec.structs.replace(create("s"), idempotency_key=key))
    assert isinstance(outcome, NotFound)
    with pytest.raises(NotFound) as refused:
        run(store.tenant().replayed(key))
    assert CANARY not in str(refused.value)


def test_erasures_one_after_the_other_leave_nothing(store: Store, folder: Path) -> None:
    """Sessions whose rows share pages: none of the ledger's rows moves when others are erased."""
    interleave(store)
    for number in range(8):
        store.commit_all(erase(f"x{number}"))
        finish(store)
        assert found_beside_views(folder, f"{CANARY}-{number}-") == []
    store.commit_all(erase())
    finish(store)
    scrub(store)
    assert found_in(folder) == []


def interleave(store: Store) -> None:
    """Sessions x0 to x7 whose messages share pages."""
    store.commit_all(*(create(f"x{number}", title=f"{CANARY}-{number}-") for number in range(8)))
    for count in range(60):
        wanted = [append(f"x{n}", message(f"m{count}", f"{CANARY}-{n}- " * (1 + count % 7))) for n in range(8)]
        store.commit_all(*wanted)


def test_without_views_that_are_built_anew_copies_of_rows_are_found(store: Store, folder: Path) -> None:
    """Why an erasure waits for them: rows of the views that have moved leave copies in unused parts of pages."""
    interleave(store)
    for number in range(8):
        store.commit_all(erase(f"x{number}"))
        finish(store)
    store.commit_all(erase())
    finish(store)
    assert found_in(folder) == ["ledger.db.views.000001.db"]
    assert erasure.unscrubbed(store.ledger)[0] == 9
    scrub(store)
    assert erasure.unscrubbed(store.ledger) == (0, 0)
    assert found_in(folder) == []


def test_views_that_were_begun_before_the_end_of_an_erasure_scrub_nothing(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have read what was still there: the erasure goes on waiting, and what they have of it is cleared."""
    take_to = builder.take_to

    def erase_behind(*args: Any, **options: Any) -> None:
        take_to(*args, **options)
        monkeypatch.undo()
        store.commit_all(erase())
        finish(store)

    monkeypatch.setattr(builder, "take_to", erase_behind)
    store.views.rebuild(store.ledger)
    finish(store)
    assert erasure.unscrubbed(store.ledger)[0] == 1
    assert store.views.db.execute("SELECT count(*) FROM messages WHERE id LIKE 'm%' AND session_id = 1").get == 0
    scrub(store)
    assert erasure.unscrubbed(store.ledger)[0] == 0
    assert found_in(folder) == []


def test_without_truncating_the_logs_the_content_is_found(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded bug: the write-ahead logs stay as they are, and the search finds it there."""
    monkeypatch.setattr(wal, "truncate_wal", lambda *_, **__: True)
    store.commit_all(erase())
    finish(store)
    assert "ledger.db-wal" in found_in(folder)


def crash_images(store: Store, folder: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folder as it is before and after each step of an erasure, in steps of a few rows."""
    images: list[Path] = []

    def look() -> None:
        images.append(copied(folder, into / f"image-{len(images)}"))

    def around(step: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **options: object) -> object:
            look()
            result = step(*args, **options)
            look()
            return result

        return wrapped

    monkeypatch.setattr(erasure, "ROWS_A_STEP", 25)
    monkeypatch.setattr(erasure_list, "add", around(erasure_list.add))
    monkeypatch.setattr(erasure.Eraser, "step", around(erasure.Eraser.step))
    monkeypatch.setattr(wal, "checkpoint", around(wal.checkpoint))
    store.commit_all(erase())
    finish(store)
    look()
    monkeypatch.undo()
    return images


def test_a_crash_at_any_step_is_finished_by_the_next_start(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image of the files opens, and what is left to do is done; the list has the erasure once."""
    images = crash_images(store, folder, tmp_path, monkeypatch)
    assert len(images) >= 16
    assert "ledger.db-wal" in found_in(images[0])
    before = leaves(store)
    for image in images:
        with Store(image / "ledger.db") as again:
            finish(again)
            assert found_beside_views(image) == [], image.name
            scrub(again)
            assert found_in(image) == [], image.name
            assert leaves(again) == before
            assert wrong_leaves(again.ledger) == []
            assert not again.ledger.execute("SELECT EXISTS (SELECT 1 FROM erasures)").get
        assert len(list(erasure_list.listed_in(image / "ledger.db.erasures"))) == 1


def test_a_long_session_goes_in_many_small_transactions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of them others write; a step that comes twice changes nothing."""
    monkeypatch.setattr(erasure, "ROWS_A_STEP", 10)
    store.commit_all(erase())
    eraser, steps = Eraser(store.committer), 0
    while eraser.step() is not State.DONE:
        steps += 1
        store.commit_all(append("o-s", message(f"between-{steps}")))
        eraser = Eraser(store.committer) if steps in (3, 12) else eraser
        assert steps < 100
    assert steps > 10
    assert payloads_of(store, "s")[:-1] == [None] * (len(payloads_of(store, "s")) - 1)
    assert wrong_leaves(store.ledger) == []


@pytest.mark.parametrize("torn", [b'{"ledger_id":"', bytes(700) + b'","actor":"open"}\n', bytes(4096)])
def test_a_torn_line_of_the_list_is_written_again(store: Store, folder: Path, torn: bytes) -> None:
    """A crash in the middle of writing it: that erasure was not done yet."""
    path = folder / "ledger.db.erasures"
    path.write_bytes(torn)
    store.commit_all(erase())
    finish(store)
    (entry,) = erasure_list.listed_in(path)
    assert (entry.tenant, entry.session, entry.reason, entry.actor) == ("default", "s", REASON, "open")


def test_what_a_crashed_restore_has_left_goes_too(store: Store, folder: Path) -> None:
    """It may hold the content, and nobody who holds the ledger makes such a file."""
    (folder / "ledger.db.new").write_text(CANARY)
    (folder / "ledger.db.new.views.000001.db").write_text(CANARY)
    store.commit_all(erase())
    finish(store)
    assert found_beside_views(folder) == []


def test_the_list_is_its_owners_alone(store: Store, folder: Path) -> None:
    """It has ids and reasons."""
    store.commit_all(erase())
    finish(store)
    assert stat.S_IMODE((folder / "ledger.db.erasures").stat().st_mode) == 0o600


def test_a_reader_in_the_way_leaves_it_pending(store: Store, folder: Path) -> None:
    """Its snapshot needs the log; once it is gone, the rest is done."""
    with closing(ledger_file.open_ledger_reader(store.location, store.settings)) as reader:
        with transactions.snapshot(reader):
            event_store.head(reader)
            store.commit_all(erase())
            assert not erasure.finish(store.committer, wait_ms=1)
            store.committer.settings = msgspec.structs.replace(store.settings, busy_timeout_ms=1)
            with pytest.raises(ErasurePending):
                erasure.finish_now(store.committer)
        finish(store)
    assert found_beside_views(folder) == []


def test_an_older_copy_is_erased_again(store: Store, folder: Path, tmp_path: Path) -> None:
    """With the first reason and actor; what it does not have, and what it has erased, is passed over."""
    store.close()
    older = copied(folder, tmp_path / "older")
    with Store(folder / "ledger.db") as newer:
        fill(newer, "later", "other text")
        newer.commit_all(erase(), erase("later"))
        finish(newer)
    listed = folder / "ledger.db.erasures"
    with Store(older / "ledger.db") as restored:
        assert erasure.reapply(restored.committer, listed) == 1
        assert erasure.reapply(restored.committer, listed) == 0
        assert found_beside_views(older) == []
        stream = event_store.find_stream(restored.ledger, "default", "s")
        assert stream is not None
        *_, last = event_store.read_stream(restored.ledger, stream)
        assert (last.event.type, last.event.actor, last.payload) == (
            "session.erased",
            "open",
            b'{"reason":"request 17"}',
        )
    store.open()


def test_the_triggers_still_refuse_any_other_change(store: Store) -> None:
    """Of another session, and of the erased one: a payload cannot come back, and the erasure itself stays."""
    store.commit_all(erase())
    finish(store)
    for statement in (
        "UPDATE events SET payload = zeroblob(length(payload)), salt = zeroblob(16) WHERE position = 2",
        "UPDATE events SET payload = x'7b7d' WHERE position = 1",
        "UPDATE events SET payload = zeroblob(length(payload)), salt = zeroblob(16) WHERE type = 'session.erased'",
        "DELETE FROM events WHERE position = 1",
    ):
        where = event_store.find_stream(store.ledger, "default", "o-s")
        changed = statement.replace("position = 2", f"stream = {where}")
        with pytest.raises(sql_errors.SQLError):
            store.ledger.execute(changed)


def test_all_sessions_of_a_user_are_found(store: Store) -> None:
    """Deleted ones too, by their last user; erased ones no longer say."""
    store.commit_all(create("a", user_id="u"), create("b", user_id="u"), create("c", user_id="u"), create("d"))
    store.commit_all(delete("b"), update("c", user_id="v"), update("d", user_id="u"), create("e", user_id="u"))
    store.commit_all(update("a", title="t"), erase("e"))
    finish(store)
    assert sessions.of_user(store.views.db, "default", "u") == ["a", "b", "d"]
    assert sessions.of_user(store.views.db, "other", "u") == []


def test_forks_of_forks_hold_copies_too(store: Store) -> None:
    """Deleted ones as well, and others do not."""
    for name, source in (("f", "s"), ("g", "f"), ("x", "o-s"), ("h", "g")):
        plan = run(store.tenant().plan_fork(source, version=None, title=None))
        run(store.tenant().fork(name, plan, size_bytes=0))
    store.commit_all(delete("g"))
    assert sessions.forks(store.views.db, "default", "s") == ["f", "g", "h"]
    assert sessions.forks(store.views.db, "default", "x") == []
    assert sessions.forks(store.views.db, "other", "s") == []


def test_nothing_is_remembered_of_it(store: Store) -> None:
    """The states that the committer keeps from group to group."""
    store.commit_all(append("s", message("last", CANARY)))
    assert CANARY in repr(store.committer._states)
    store.commit_all(erase())
    finish(store)
    assert CANARY not in repr(store.committer._states["default", "s"])


def test_in_memory_too() -> None:
    """There are no files, and the payloads go all the same."""
    settings = Settings(database_path=":memory:")
    with Store(Path(settings.database_path)) as store:
        fill(store)
        store.commit_all(erase())
        finish(store)
        assert payloads_of(store, "s")[:-1] == [None] * (len(payloads_of(store, "s")) - 1)
        with contextlib.suppress(NotFound):
            run(store.tenant().session("s", newest=1))
