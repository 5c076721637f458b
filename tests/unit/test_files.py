"""Files that are written whole or not at all, and never in the place of one of the ledger's."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chatledger.errors import RefusedToStart
from chatledger.settings import Settings
from chatledger.storage import files
from chatledger.storage.files import Output, OwnFiles, check_output, replacing
from chatledger.storage.paths import Location, check_name, claimed

OWN_NAMES = (
    "", "-wal", "-shm", "-journal", ".key", ".key.unfinished", ".lock", ".erasures", ".erasures.unfinished",
    ".views.000001.db", ".views.000001.db-wal", ".views.000002.db.building", ".views.000002.db.beside.building",
    ".new", ".new-wal", ".new.lock", ".new.views.000001.db",
)  # fmt: skip
OTHER_NAMES = (".jsonl", ".bak", ".unfinished", ".newest", ".keys", ".views", ".views.1.db", "-copy", "2")


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def own(folder: Path, **settings: str) -> OwnFiles:
    """The files of the ledger `ledger.db` of that folder."""
    made = Settings(database_path=str(folder / "ledger.db"), **settings)
    return OwnFiles.of(Location.of(made), made)


def write(path: Path, text: bytes, then: type[Exception] | None = None) -> None:
    """Write a file anew, and have something else go wrong behind that."""
    with replacing(path) as file:
        file.write(text)
        if then is not None:
            raise then


def test_a_file_is_replaced_for_its_owner_alone(tmp_path: Path) -> None:
    """The new text is there only behind the block, private whatever the old one was, and nothing else is left."""
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o644)
    with replacing(path) as file:
        file.write(b"new ")
        file.write(b"x" * files.BUFFER_BYTES)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["out", "out.unfinished"]
        assert stat.S_IMODE((tmp_path / "out.unfinished").stat().st_mode) == 0o600
    assert path.read_bytes() == b"new " + b"x" * files.BUFFER_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["out"]


def test_it_is_on_the_disk_before_it_has_its_name_and_the_name_is_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced, then named, then its name is: a power cut leaves the old or the new one."""
    happened: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        happened.append("folder synced" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file synced")
        fsync(descriptor)

    def note_rename(self: Path, target: str) -> Path:
        happened.append("renamed")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_rename)
    with replacing(tmp_path / "out") as file:
        file.write(b"x")
    assert happened == ["file synced", "renamed", "folder synced"]


@pytest.mark.parametrize("failing", ["block", "write", "fsync", "rename"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Wherever it happens; what the system says is in the one line."""
    path = tmp_path / "out"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = {"write": (os, "write"), "fsync": (os, "fsync"), "rename": (Path, "replace")}.get(failing)
    if target is not None:
        monkeypatch.setattr(*target, fail)
    expected = KeyError if failing == "block" else RefusedToStart
    with pytest.raises(expected) as raised:
        write(path, b"new", then=KeyError if failing == "block" else None)
    monkeypatch.undo()
    assert (names(tmp_path), path.read_text()) == (["out"], "old")
    if failing != "block":
        assert str(raised.value) == f"Cannot use {path}: no space left on device. Make room on its disk."


def test_what_a_killed_one_left_is_taken_over(tmp_path: Path) -> None:
    """And is no part of the new file."""
    (tmp_path / "out.unfinished").write_text("half of an older and longer one")
    with replacing(tmp_path / "out") as file:
        file.write(b"new")
    assert (names(tmp_path), (tmp_path / "out").read_text()) == (["out"], "new")


def test_two_at_a_time_do_not_mix(tmp_path: Path) -> None:
    """The second one is refused, and the first goes on."""
    with replacing(tmp_path / "out") as file:
        file.write(b"first")
        with pytest.raises(RefusedToStart, match="is being written by another process"), replacing(tmp_path / "out"):
            pass
    assert (tmp_path / "out").read_text() == "first"


@pytest.mark.parametrize("kind", ["hard link", "link", "pipe"])
def test_something_else_at_the_place_of_the_unfinished_file_is_left(tmp_path: Path, kind: str) -> None:
    """Somebody else may have put it there, in a folder that many can write to."""
    precious, unfinished = tmp_path / "precious", tmp_path / "out.unfinished"
    precious.write_text("precious")
    if kind == "hard link":
        unfinished.hardlink_to(precious)
    elif kind == "link":
        unfinished.symlink_to(precious)
    else:
        os.mkfifo(unfinished)
    with pytest.raises(RefusedToStart), replacing(tmp_path / "out"):
        pass
    assert precious.read_text() == "precious"
    assert not (tmp_path / "out").exists()


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    """Also one whose target is not there yet."""
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "target"
    link.symlink_to(target)
    for text in (b"one", b"two"):
        with replacing(link) as file:
            file.write(text)
        assert (link.is_symlink(), target.read_bytes(), names(target.parent)) == (True, text, ["target"])


def test_a_block_of_a_claim_is_the_only_one(tmp_path: Path) -> None:
    """Whoever comes when the first is done does not take the finished file for an unfinished one."""
    making, final = str(tmp_path / "x.unfinished"), str(tmp_path / "x")
    with claimed(making, final) as first:
        os.write(first, b"whole")
        waiting = os.open(making, os.O_RDWR)
        Path(making).rename(final)
    os.close(waiting)
    with claimed(making, final) as second:
        assert os.fstat(second).st_size == 0
    assert Path(final).read_text() == "whole"


# What an output must not be


@pytest.mark.parametrize("suffix", OWN_NAMES)
@pytest.mark.parametrize("there", [True, False])
def test_the_ledgers_files_are_refused_by_name(tmp_path: Path, suffix: str, *, there: bool) -> None:
    """Whether there is such a file now or not: SQLite would take what lies there for its own."""
    path = tmp_path / f"ledger.db{suffix}"
    if there:
        path.write_text("precious")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in (path, tmp_path / "link", tmp_path / "folder" / path.name, tmp_path / "x" / ".." / path.name):
        with pytest.raises(RefusedToStart, match="is the ledger itself, or one of its files"):
            own(tmp_path).check(name)
    assert not there or path.read_text() == "precious"


@pytest.mark.parametrize("suffix", OWN_NAMES)
def test_the_ledgers_files_are_refused_by_inode(tmp_path: Path, suffix: str) -> None:
    """A hard link is the same file under another name."""
    (tmp_path / f"ledger.db{suffix}").write_text("precious")
    (tmp_path / "innocent").hardlink_to(tmp_path / f"ledger.db{suffix}")
    with pytest.raises(RefusedToStart, match="innocent is the ledger itself, or one of its files"):
        check_output(tmp_path / "innocent", own(tmp_path))


@pytest.mark.parametrize("suffix", OTHER_NAMES)
def test_other_names_beside_the_ledger_are_free(tmp_path: Path, suffix: str) -> None:
    """An export may lie there."""
    (tmp_path / "ledger.db").write_text("")
    check_output(tmp_path / f"ledger.db{suffix}", own(tmp_path))
    check_output(tmp_path / "elsewhere" / "ledger.db-wal", own(tmp_path))


@pytest.mark.parametrize("setting", ["signing_key", "tls_key", "tls_certificate", "jwks"])
def test_keys_and_certificates_elsewhere_are_refused(tmp_path: Path, setting: str) -> None:
    """Those of the settings, there or not."""
    place = tmp_path / "secrets" / "file"
    for _ in range(2):
        with pytest.raises(RefusedToStart, match="one of its files"):
            check_output(place, own(tmp_path, **{setting: str(place)}))
        place.parent.mkdir(exist_ok=True)
        place.write_text("precious")


@pytest.mark.parametrize("content", [files.SQLITE_MAGIC + bytes(4080), b"PRIVATE+KEY+chatledger/x+00+AA==\n"])
def test_another_ledger_or_key_is_not_written_over(tmp_path: Path, content: bytes) -> None:
    """A backup, for one: it is told by how it begins."""
    (tmp_path / "backup.db").write_bytes(content)
    with pytest.raises(RefusedToStart, match="is a database or a key; it was left as it is"):
        check_output(tmp_path / "backup.db", own(tmp_path))


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A pipe, and a device but the two that stand for standard output and for nothing."""
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", Path("/dev/full"), Path("/dev/zero")):
        with pytest.raises(RefusedToStart, match="is no regular file"):
            check_output(name, own(tmp_path))
    for name in (Path("/dev/null"), Path("/dev/stdout"), Path("-"), None):
        check_output(name, own(tmp_path))


@pytest.mark.parametrize("name", ["x" * 256, "no/such/folder/x"])
def test_a_name_that_the_system_refuses_is_one_line(tmp_path: Path, name: str) -> None:
    """With the name and the reason."""
    with pytest.raises(RefusedToStart, match=r"Cannot use .*x: (file name too long|no such file or directory)\."):
        write(tmp_path / name, b"")


def test_standard_output_that_leads_into_the_ledger_is_refused(tmp_path: Path) -> None:
    """As `>> ledger.db-wal` would have it."""
    path = tmp_path / "ledger.db-wal"
    path.write_text("precious")
    script = (
        "import sys; from chatledger.storage.files import *; from chatledger.storage.paths import Location\n"
        "from chatledger.settings import Settings; made = Settings(database_path=sys.argv[1])\n"
        "with output(None, OwnFiles.of(Location.of(made), made)) as file: file.write(b'x')"
    )
    with path.open("ab") as file:
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "ledger.db")],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "Standard output is the ledger itself, or one of its files" in done.stderr
    assert path.read_text() == "precious"


def test_an_output_writes_what_a_pipe_takes_until_it_has_all() -> None:
    """A pipe that takes less than all, or nothing for now because another program made it so, loses nothing."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = bytes(range(256)) * 4096
    found = bytearray()

    def read() -> None:
        while more := os.read(reading, 10_000):
            found.extend(more)

    reader = threading.Thread(target=read)
    reader.start()
    output = Output(writing, "out")
    output.write(data)
    output.flush()
    os.close(writing)
    reader.join()
    os.close(reading)
    assert bytes(found) == data


# Names


@pytest.mark.parametrize("name", ["b\udcfcro.db", "a\udc80/b.db"])
def test_a_name_that_is_not_utf8_is_refused(name: str) -> None:
    """SQLite could not be told of it."""
    with pytest.raises(RefusedToStart, match=r"The file name .*\\udc.* is not UTF-8"):
        check_name(name)
    with pytest.raises(RefusedToStart, match="NUL"):
        check_name("a\0b")
    assert check_name("büro/日本.db") == "büro/日本.db"
