"""What is read without locks counts only if nobody changed it meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chatledger.errors import LedgerDamaged, RefusedToStart
from chatledger.storage import file_access
from chatledger.storage.file_access import is_read_without_locks, unchanged, why_unreadable


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file on a mount that looks read-only from here, as a container's view of a folder that others write to."""
    monkeypatch.setattr(file_access, "is_read_only", lambda _: True)
    path = tmp_path / "ledger.db"
    path.write_bytes(b"a page")
    os.utime(path, ns=(0, 0))
    return path


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda path: path.write_bytes(b"b page"),
    "grown": lambda path: path.write_bytes(b"a page and another"),
    "replaced": lambda path: (path.with_name("new").write_bytes(b"a page"), path.with_name("new").replace(path)),
    "gone": lambda path: path.unlink(),
    "a log": lambda path: path.with_name("ledger.db-wal").write_bytes(b"frames"),
    "a journal": lambda path: path.with_name("ledger.db-journal").write_bytes(b"pages"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_while_it_is_read_is_named(mounted: Path, change: Callable[[Path], object]) -> None:
    """Whatever was read by then, good or bad, counts for nothing."""
    with (
        pytest.raises(RefusedToStart, match=r"ledger\.db was changed while it was read: run the command again"),
        unchanged(str(mounted)),
    ):
        change(mounted)


def test_damage_that_a_change_explains_is_no_damage(mounted: Path) -> None:
    """The same block over a file that stayed as it was says what it found."""
    damaged = LedgerDamaged("The ledger's file is damaged.")

    def read(content: bytes) -> None:
        with unchanged(str(mounted)):
            if content:
                mounted.write_bytes(content)
            raise damaged

    with pytest.raises(LedgerDamaged) as found:
        read(b"")
    assert found.value is damaged
    with pytest.raises(RefusedToStart, match="was changed") as refused:
        read(b"torn")
    assert refused.value.__cause__ is damaged


def test_what_stayed_as_it_was_counts(mounted: Path) -> None:
    """Reading changes nothing."""
    with unchanged(str(mounted)):
        assert mounted.read_bytes() == b"a page"


def test_where_sqlite_has_its_locks_changes_are_its_business(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a server, whose log and index are there; and wherever files can be made."""
    for suffix in ("-wal", "-shm"):
        mounted.with_name("ledger.db" + suffix).touch()
    assert not is_read_without_locks(str(mounted))
    with unchanged(str(mounted)):
        mounted.write_bytes(b"a checkpoint")
    for suffix in ("-wal", "-shm"):
        mounted.with_name("ledger.db" + suffix).unlink()
    monkeypatch.setattr(file_access, "is_read_only", lambda _: False)
    with unchanged(str(mounted)):
        mounted.write_bytes(b"another one")


@pytest.mark.parametrize(
    ("beside", "without_locks"),
    [
        ({}, True),
        ({"-wal": b""}, True),
        ({"-shm": b"index"}, True),
        ({"-journal": b""}, True),
        ({"-wal": b"", "-shm": b"index"}, False),
        ({"-wal": b"frames"}, False),
        ({"-wal": b"frames", "-shm": b"index"}, False),
        ({"-journal": b"pages"}, False),
    ],
    ids=repr,
)
def test_a_file_is_read_without_locks_only_if_it_is_all_there_is(
    mounted: Path, beside: dict[str, bytes], *, without_locks: bool
) -> None:
    """Never with something in a log, which such a reader would not see, nor beside whoever has both files open."""
    for suffix, content in beside.items():
        mounted.with_name("ledger.db" + suffix).write_bytes(content)
    assert is_read_without_locks(str(mounted)) is without_locks


def test_where_files_can_be_made_nothing_is_read_without_locks(tmp_path: Path) -> None:
    """A server could begin to write any moment."""
    (tmp_path / "ledger.db").write_bytes(b"a page")
    assert not is_read_without_locks(str(tmp_path / "ledger.db"))
    assert why_unreadable(str(tmp_path / "ledger.db"), "a fault of SQLite's") == "a fault of SQLite's"
    assert why_unreadable(str(tmp_path / "none.db"), "a fault of SQLite's") == "it is not there"
