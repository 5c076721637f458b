"""A ledger that is removed or replaced under a server is noticed before the next answer (F13)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chatledger.errors import OutcomeUnknown, Overloaded, RefusedToStart
from support.store import Store, append, create, message


def remove(path: Path) -> None:
    """It has no name any more."""
    path.unlink()


def rename(path: Path) -> None:
    """It has another one."""
    path.rename(path.with_name("elsewhere"))


def replace(path: Path) -> None:
    """A copy of it, as of a backup that is put in its place."""
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal", "ledger.db-shm"])
@pytest.mark.parametrize("damage", [remove, rename, replace])
def test_nothing_is_acknowledged_any_more(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    """The group in which it is noticed has an unknown outcome; the next ones are refused before they write."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))
        damage(tmp_path / name)
        with pytest.raises(OutcomeUnknown, match="removed or replaced"):
            store.commit(append("s", message("m1")))
        assert not store.committer.has_its_files
        for _ in range(2):
            with pytest.raises(Overloaded, match="nothing is written"):
                store.commit(append("s", message("m2")))


def test_files_that_are_brought_back_are_written_to_again(tmp_path: Path) -> None:
    """Renamed and back: what was written meanwhile is in the file, and the server goes on."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))
        (tmp_path / "ledger.db").rename(tmp_path / "elsewhere")
        with pytest.raises(OutcomeUnknown):
            store.commit(append("s", message("m1")))
        (tmp_path / "elsewhere").rename(tmp_path / "ledger.db")
        store.commit_all(append("s", message("m1")), append("s", message("m2")))
        assert store.committer.has_its_files
        assert store.ledger.execute("SELECT count(*) FROM events").get == 3


def test_another_ledger_in_its_place_is_not_opened(tmp_path: Path) -> None:
    """After a failed commit the files are opened anew: not the ones that somebody has put there meanwhile."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))
        with Store(tmp_path / "other.db") as other:
            other.commit_all(create("t"))
        (tmp_path / "other.db").replace(tmp_path / "ledger.db")
        with pytest.raises(RefusedToStart, match="removed or replaced"):
            store.committer.reopen()
        with pytest.raises(Overloaded):
            store.commit(append("s", message("m1")))


def test_in_memory_there_is_nothing_to_lose() -> None:
    """No file, no look at one."""
    with Store(Path(":memory:")) as store:
        store.commit_all(create("s"), append("s", message("m1")))
        assert store.committer.has_its_files
