"""A rebuild beside the live views: others append and read meanwhile, and it is swapped in between two groups."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given as for_all
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chatledger.errors import Overloaded, RebuildRunning
from chatledger.reading.readers import Reader
from chatledger.storage.connection import Connection
from chatledger.views import apply_triggers
from chatledger.views import builder as builder_module
from chatledger.views import rebuilder as rebuilder_module
from chatledger.views.live_views import Views
from chatledger.views.rebuilder import Rebuilder
from support.store import Store, append, create, delete, message, remove, update
from support.tables import dump, dump_rebuilt

LIMIT_S = 60


class Beside:
    """A rebuilder of a store's views, for a test that is the writer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rebuilder = Rebuilder(store.location, store.settings, store.views)
        self._built = threading.Event()

    def start(self) -> None:
        """Begin a rebuild."""
        self._built.clear()
        self.rebuilder.start(self._built.set)

    def wait_until_built(self) -> None:
        """From here on `swap` swaps."""
        assert self._built.wait(LIMIT_S)

    def swap(self) -> None:
        """What the writer does between two groups; then wait for the rebuild's end."""
        self.rebuilder.swap(self.store.ledger)
        self.rebuilder.cancel()
        assert self.rebuilder.progress is None


@pytest.fixture
def beside(store: Store) -> Iterator[Beside]:
    """A rebuilder on a store with a little in it."""
    fill(store)
    made = Beside(store)
    yield made
    made.rebuilder.close()


def fill(store: Store) -> None:
    """A little of everything."""
    store.commit_all(create("s", message("m1"), message("m2"), title="T"), create("s", tenant="b"))
    store.commit_all(append("s", message("m3")), remove("s", "m1"), update("s", title=None, traits={"a": 1}))
    store.commit_all(create("gone", message("m1")), delete("gone"))


def files(store: Store) -> list[str]:
    """What there is of views, without what SQLite has beside them."""
    names = {path.name for path in store.location.folder.glob("*.views.*")}
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


class Gate:
    """Holds the thread of a rebuild before each batch until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._entered, self._opened = threading.Event(), threading.Event()
        original = builder_module.take_to

        def take_to(*arguments: object, **named: object) -> None:
            if threading.current_thread().name == "rebuild":
                self._entered.set()
                assert self._opened.wait(LIMIT_S)
            original(*arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(builder_module, "take_to", take_to)

    def wait(self) -> None:
        """Until the rebuild is in the middle."""
        assert self._entered.wait(LIMIT_S)

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A closed gate; it is opened at the latest at the end of the test."""
    made = Gate(monkeypatch)
    yield made
    made.open()


def test_what_is_committed_meanwhile_is_in_the_new_views(beside: Beside, tmp_path: Path) -> None:
    """Before the rebuild has read, once it is built, and after the swap: the rows are those of a rebuild."""
    store = beside.store
    beside.start()
    store.commit_all(append("s", message("during")))
    beside.wait_until_built()
    store.commit_all(*(append("s", message(f"built{number}")) for number in range(50)), create("late"))
    live = dump(store.views.db)
    beside.swap()
    assert store.views.generation == 2
    assert dump(store.views.db) == live == dump_rebuilt(store, tmp_path)
    store.commit_all(append("s", message("after")), remove("s", "during"))
    assert dump(store.views.db) == dump_rebuilt(store, tmp_path)
    assert files(store) == ["ledger.db.views.000002.db"]


@hypothesis_settings(max_examples=20, deadline=None)
@for_all(counts=st.tuples(*[st.integers(0, 5)] * 4))
def test_a_rebuild_is_the_live_views_however_they_meet(
    tmp_path_factory: pytest.TempPathFactory, counts: tuple[int, ...]
) -> None:
    """Rebuild = live, whatever is committed before, while it is built, before the swap and behind it."""
    folder = tmp_path_factory.mktemp("meet")
    with Store(folder / "ledger.db") as store:
        store.commit_all(create("s"))
        beside = Beside(store)
        for stage, count in enumerate(counts):
            store.commit_all(*(append("s", message(f"m{stage}-{number}")) for number in range(count)))
            if stage == 0:
                beside.start()
            elif stage == 1:
                beside.wait_until_built()
            elif stage == 2:
                beside.swap()
        assert store.views.generation == 2
        assert dump(store.views.db) == dump_rebuilt(store, folder)


def reached(views: Connection, ledger_db: Connection) -> tuple[int, int]:
    """The position of the views, and of the ledger before."""
    head = int(ledger_db.execute("SELECT max(position) FROM events").get)
    return int(views.execute("SELECT position FROM views").get), head


@contextmanager
def watched(store: Store) -> Iterator[list[str]]:
    """A reader that reads on for as long as the block takes; what it found wrong."""
    wrong: list[str] = []
    stop, begun = threading.Event(), threading.Event()

    def read() -> None:
        before = 0
        with closing(Reader(store.location, store.settings, store.views)) as reader:
            while not stop.is_set():
                position, _ = reader.run(reached)
                if position < before:
                    wrong.append(f"{position} after {before}")
                before = position
                begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert begun.wait(LIMIT_S)
        yield wrong
    finally:
        stop.set()
        thread.join()


def test_no_read_goes_back_in_time(beside: Beside) -> None:
    """Not of a reader that reads all the time, over several swaps; and what was committed can be read at once."""
    store = beside.store
    with watched(store) as wrong, closing(Reader(store.location, store.settings, store.views)) as reader:
        for generation in range(2, 6):
            beside.start()
            for number in range(20):
                store.commit_all(append("s", message(f"g{generation}-{number}")))
                assert reader.run(reached)[0] == store.views.position
            beside.wait_until_built()
            store.commit_all(append("s", message(f"g{generation}-built")))
            beside.swap()
            assert reader.run(reached)[0] == store.views.position
            assert store.views.generation == generation
    assert wrong == []


def test_a_read_that_is_under_way_keeps_its_views(beside: Beside) -> None:
    """The old file is gone by name; who reads it reads on."""
    store = beside.store
    beside.start()
    beside.wait_until_built()

    def query(views: Connection, ledger_db: Connection) -> tuple[int, int]:
        before = reached(views, ledger_db)
        beside.swap()
        store.commit_all(append("s", message("after")))
        assert reached(views, ledger_db) == before
        return before

    with closing(Reader(store.location, store.settings, store.views)) as reader:
        assert reader.run(query)[0] < reader.run(reached)[0] == store.views.position


def test_a_second_rebuild_is_refused(beside: Beside) -> None:
    """Until the first one has come to its end."""
    beside.start()
    with pytest.raises(RebuildRunning):
        beside.start()
    beside.wait_until_built()
    beside.swap()
    beside.start()


def test_a_cancelled_rebuild_leaves_nothing(beside: Beside, gate: Gate) -> None:
    """In the middle of its batches; the live views stay and go on, and the next rebuild has the same number."""
    store = beside.store
    beside.start()
    gate.wait()
    assert any("building" in name for name in files(store))
    canceller = threading.Thread(target=beside.rebuilder.cancel)
    canceller.start()
    store.commit_all(append("s", message("during")))
    gate.open()
    canceller.join()
    assert beside.rebuilder.progress is None
    assert files(store) == ["ledger.db.views.000001.db"]
    store.commit_all(append("s", message("after")))
    beside.start()
    beside.wait_until_built()
    beside.swap()
    assert store.views.generation == 2


def test_a_rebuild_that_is_cancelled_once_it_is_built_is_not_swapped_in(beside: Beside) -> None:
    """Though the writer has been told to already."""
    store = beside.store
    beside.start()
    beside.wait_until_built()
    beside.rebuilder.cancel()
    beside.swap()
    assert store.views.generation == 1
    assert files(store) == ["ledger.db.views.000001.db"]


def test_a_closed_rebuilder_begins_none(beside: Beside) -> None:
    """The service is stopping then."""
    beside.rebuilder.close()
    with pytest.raises(Overloaded):
        beside.start()


def test_a_rebuild_whose_turn_has_passed_is_not_swapped_in(beside: Beside) -> None:
    """Damaged views were built anew by the writer meanwhile: these are newer."""
    store = beside.store
    beside.start()
    beside.wait_until_built()
    store.views.rebuild(store.ledger)
    store.commit_all(append("s", message("after")))
    live = dump(store.views.db)
    beside.swap()
    assert store.views.generation == 2
    assert dump(store.views.db) == live
    assert files(store) == ["ledger.db.views.000002.db"]


def test_a_swap_that_fails_leaves_the_live_views(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are attached again, and changes go on; nothing is left of the new ones."""
    store = beside.store
    beside.start()
    beside.wait_until_built()
    calls: list[int] = []
    original = apply_triggers.prepare_append

    def fail_once(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no more of it")
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(apply_triggers, "prepare_append", fail_once)
    beside.swap()
    assert (store.views.generation, len(calls)) == (1, 2)
    store.commit_all(append("s", message("after")))
    assert dump(store.views.db) == dump_rebuilt(store, tmp_path)
    assert files(store) == ["ledger.db.views.000001.db"]


def test_new_views_that_fail_their_check_are_not_swapped_in(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rebuild ends by itself, and leaves nothing."""
    store = beside.store
    monkeypatch.setattr(Views, "distrust", lambda *_, **__: "the views were damaged")
    beside.start()
    thread = next(each for each in threading.enumerate() if each.name == "rebuild")
    thread.join(LIMIT_S)
    assert beside.rebuilder.progress is None
    assert store.views.generation == 1
    assert files(store) == ["ledger.db.views.000001.db"]


def ended(beside: Beside) -> None:
    """Wait for the rebuild's thread."""
    thread = beside.rebuilder._thread
    assert thread is not None
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert beside.rebuilder.progress is None


@pytest.mark.parametrize("what", ["the part filled aside", "the part filled aside, with an empty one in its place"])
def test_a_rebuild_whose_files_are_removed_meanwhile_is_not_swapped_in(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Opening the files anew removes what is not whole: tables that were filled there must not become empty ones."""
    store, copy = beside.store, builder_module.Builder._copy
    live, before = dump(store.views.db), files(store)

    def copy_what_is_gone(builder: builder_module.Builder, *arguments: object) -> None:
        aside = Path(builder._name + builder_module.ASIDE)
        aside.unlink()
        if "in its place" in what:
            aside.touch()
        copy(builder, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builder_module.Builder, "_copy", copy_what_is_gone)
    beside.start()
    ended(beside)
    beside.swap()
    assert (dump(store.views.db), files(store)) == (live, before)


def test_nobody_begins_a_rebuild_while_the_files_are_opened_anew(beside: Beside, gate: Gate) -> None:
    """One that runs is cancelled first, and afterwards another one can be begun."""
    beside.start()
    gate.wait()
    gate.open()
    with beside.rebuilder.held():
        assert beside.rebuilder.progress is None
        with pytest.raises(Overloaded):
            beside.start()
    beside.start()
    beside.wait_until_built()
    beside.swap()


@pytest.mark.parametrize("failure", [SystemExit(), StopIteration(), MemoryError(), OSError(28, "full")])
def test_a_rebuild_that_fails_in_any_way_keeps_out_no_other(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """Also where its own end fails: the log, and the removal of its files."""

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise failure

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: None)
        patch.setattr(rebuilder_module, "log", Broken())
        patch.setattr(rebuilder_module, "remove", fail)
        beside.start()
        ended(beside)
    beside.start()
    beside.wait_until_built()
    beside.swap()
    assert beside.store.views.generation == 2


def test_a_rebuild_for_which_there_is_no_thread_keeps_out_no_other(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has no room for one more: 503, and the next one is begun."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Overloaded):
            beside.start()
    assert beside.rebuilder.progress is None
    beside.start()
    beside.wait_until_built()
    beside.swap()
