"""Places where nothing may be written: read-only mounts, and folders that this user may only read."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.command import environment
from support.command import run as run_command

STRANGER = 65534
"""The user `nobody`: no file of ours is its own."""
_AS_STRANGER = f"""
import encodings.ascii, importlib.readers, os
from chatledger.storage import ledger_file
from chatledger.cli.main import main
ledger_file.newest_schema()
os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
main()
"""
"""Python's modules are read before: the stranger may have no way to where it lies."""
_CODE_OF_KILLED = 9


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="chatledger-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def read_only_mount(folder: Path, *, as_bind: bool) -> Iterator[Path]:
    """What is in *folder*, mounted read-only beside it: the folder itself (a bind mount), or a copy on a tmpfs.

    Where this user may mount nothing, the test is skipped.
    """
    place = folder.with_name(folder.name + "-ro")
    place.mkdir()
    how = ["--bind", str(folder)] if as_bind else ["-t", "tmpfs", "none"]
    if os.geteuid() != 0 or subprocess.run(["mount", *how, str(place)], capture_output=True, check=False).returncode:
        place.rmdir()
        pytest.skip("this user may mount no file system here")
    try:
        if not as_bind:
            shutil.copytree(folder, place, dirs_exist_ok=True)
        options = "remount,ro,bind" if as_bind else "remount,ro"
        subprocess.run(["mount", "-o", options, str(place)], check=True, capture_output=True)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


@contextmanager
def folder_to_read(folder: Path) -> Iterator[Path]:
    """*folder*, which the stranger can enter and whose files it can read, and no more."""
    if os.geteuid() != 0:
        pytest.skip("only root can run a command as another user")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder


def run_as_stranger(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user that owns nothing here."""
    return run_command(*arguments, cwd=cwd, command=(sys.executable, "-c", _AS_STRANGER))


def leave_as_killed(folder: Path, script: str, *arguments: object) -> None:
    """Run *script*, which has to end by `os._exit(9)`, like a process that was killed: its write-ahead logs stay."""
    path = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment(PYTHONPATH=path), capture_output=True, text=True, check=False
    )
    assert done.returncode == _CODE_OF_KILLED, done.stderr
