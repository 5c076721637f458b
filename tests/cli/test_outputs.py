"""What the commands write to: never one of the ledger's files, whole or not at all, and one clear line if not."""

import os
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatledger.os_errors import shortened
from support.command import COMMAND, assert_clear, environment, refuse, run, succeed
from support.files import contents
from support.small_disk import small_disk
from support.store import Store, create, message

OWN = ("", "-wal", "-journal", ".key", ".lock", ".erasures", ".views.000001.db", ".new")
REFUSED = "is the ledger itself, or one of its files"
COMMANDS = {
    "export": ("export", "--output"),
    "events": ("export", "--events", "--output"),
    "markdown": ("export", "--markdown", "--session", "s", "--output"),
    "head": ("verify", "--save-head"),
    "backup": ("backup",),
    "import": ("import",),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stopped ledger with its key."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s", message("m1", "Hello"), title="T"))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_one_of_the_ledgers_files_for_something_else(folder: Path, command: str) -> None:
    """By name, also where there is none of it now, and by a link; every byte stays as it was."""
    before = contents(folder)
    (folder / "link").symlink_to("ledger.db")
    (folder / "hard").hardlink_to(folder / "ledger.db")
    wanted = [f"ledger.db{suffix}" for suffix in OWN] + ["link", "hard"]
    for name in wanted:
        if command == "import" and not (folder / name).exists():
            continue
        said = refuse(*COMMANDS[command], name, "--database", "ledger.db", cwd=folder)
        assert said == f"chatledger: {name} {REFUSED}: name another file.\n"
    (folder / "link").unlink()
    (folder / "hard").unlink()
    assert contents(folder) == before


@pytest.mark.parametrize("suffix", [".new", ".views.000001.db", ".lock"])
def test_no_ledger_is_restored_from_what_a_restore_removes(folder: Path, suffix: str) -> None:
    """A copy that lies under such a name would be gone before it was read."""
    (folder / "place").mkdir()
    name = f"place/ledger.db{suffix}"
    succeed("backup", "--database", "ledger.db", "b.db", cwd=folder)
    (folder / "b.db").rename(folder / name)
    before = (folder / name).read_bytes()
    assert REFUSED in refuse("restore", "--database", "place/ledger.db", name, cwd=folder)
    assert (folder / name).read_bytes() == before
    assert not (folder / "place" / "ledger.db").exists()


def test_the_two_names_of_standard_output_and_nowhere_are_fine(folder: Path) -> None:
    """As a script may have them; nothing is made."""
    text = succeed("export", "--database", "ledger.db", cwd=folder)
    assert text.startswith('{"id":"s"')
    for name in ("-", "/dev/stdout"):
        assert succeed("export", "--database", "ledger.db", "--output", name, cwd=folder) == text
    assert succeed("export", "--database", "ledger.db", "--output", "/dev/null", cwd=folder) == ""
    head = succeed("verify", "--database", "ledger.db", "--save-head", "/dev/stdout", cwd=folder)
    assert "\n— chatledger/" in head
    assert not (folder / "-").exists()


@pytest.mark.parametrize("name", ["n" * 300, "no/folder/out", "/proc/self/out"])
@pytest.mark.parametrize("command", ["export", "head", "backup"])
def test_a_place_that_cannot_be_written_is_one_line(folder: Path, command: str, name: str) -> None:
    """With the name and the system's reason; and no progress before it, where nothing could come of the work."""
    done = run(*COMMANDS[command], name, "--database", "ledger.db", cwd=folder)
    assert_clear(done)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"chatledger: Cannot use {shortened(name)}: ")
    assert not list(folder.glob("*unfinished"))


def test_a_head_is_saved_only_where_all_holds(folder: Path) -> None:
    """Views that differ from the ledger are no reason to sign it: the old head stays."""
    (folder / "head").write_text("old")
    with Store(folder / "ledger.db") as store:
        store.views.db.execute("UPDATE messages SET seq = 7")
    done = run("verify", "--database", "ledger.db", "--save-head", "head", cwd=folder)
    assert done.returncode == 1
    assert (folder / "head").read_text() == "old"


def test_a_head_is_private_and_replaces_an_older_one(folder: Path) -> None:
    """The name stays the owner's alone, and a link stays a link."""
    (folder / "heads").mkdir()
    (folder / "head").symlink_to("heads/today")
    for _ in range(2):
        succeed("verify", "--database", "ledger.db", "--save-head", "head", cwd=folder)
        assert stat.S_IMODE((folder / "heads" / "today").stat().st_mode) == 0o600
        assert (folder / "head").is_symlink()
        assert "extends the head of 2 events" in succeed(
            "verify", "--database", "ledger.db", "--head", "head", cwd=folder
        )


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        (">/dev/full", "Standard output cannot be written: no space left on device."),
        (">&-", "Standard output is closed: there is nowhere to write to."),
        (">>ledger.db-wal", f"Standard output {REFUSED}: name another file."),
    ],
)
def test_standard_output_that_takes_nothing_is_one_line(folder: Path, shell: str, said: str) -> None:
    """A full disk behind it, none at all, or the ledger's own log."""
    command = f"exec {shlex.join([*COMMAND, 'export', '--database', 'ledger.db'])} {shell}"
    done = run("-c", command, cwd=folder, command=["sh"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"chatledger: {said}"
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_ends_the_export(folder: Path) -> None:
    """As `head` does: without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "export", "--database", "ledger.db"],
        cwd=folder,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert not [line for line in done.stderr.splitlines() if not line.startswith("export: ")]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A file system with next to no room, and the command in front of one that is to see it."""
    with small_disk(tmp_path / "disk") as disk:
        if not disk.is_disk:
            pytest.skip("no file system can be made here")
        yield disk.folder, disk.prefix


@pytest.mark.parametrize("command", ["export", "head"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    folder: Path, full: tuple[Path, tuple[str, ...]], command: str
) -> None:
    """One line, exit code 1."""
    place, prefix = full
    with Store(folder / "ledger.db") as store:
        store.commit_all(create("large", *(message(f"m{n}", "x" * 50_000) for n in range(40))))
    room = {"export": 500_000, "head": 0}[command]
    script = (
        f'echo old >"$0"/out; cat /dev/zero >"$0"/ballast 2>&-; truncate -s -{room} "$0"/ballast; '
        f'"$@" "$0"/out; echo "$?"; cat "$0"/out; ls "$0"'
    )
    wanted = [*COMMAND, COMMANDS[command][0], "--database", str(folder / "ledger.db"), *COMMANDS[command][1:]]
    done = run("-c", script, place, *wanted, cwd=folder, command=[*prefix, "sh"])
    assert done.stdout.split()[-4:] == ["1", "old", "ballast", "out"], done
    said = [line for line in done.stderr.splitlines() if line.startswith("chatledger")]
    assert said == [f"chatledger: Cannot use {place}/out: no space left on device. Make room on its disk."]
    assert "Traceback" not in done.stderr
