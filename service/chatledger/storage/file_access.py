"""Reading a database file where nothing may be written: on read-only media, or in somebody else's folder.

SQLite reads a file in write-ahead mode by way of two files beside it, `-wal` and `-shm`, and makes them if they are not
there. Where it cannot, it reads the file alone if it is told that nobody changes it (`immutable=1`,
https://www.sqlite.org/uri.html#uriimmutable), and then takes no locks. Nothing here opens a file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatledger.errors import RefusedToStart
from chatledger.storage.paths import Location

_LOGS = ("-wal", "-journal")


def may_write(location: Location) -> bool:
    """Whether this user may write to the ledger and what lies beside it: else it can only be read."""
    if location.memory:
        return True
    beside = (location.ledger + suffix for suffix in ("", "-wal", "-shm", "-journal", ".lock"))
    return may_write_folder(location) and all(os.access(name, os.W_OK) for name in beside if os.path.lexists(name))


def may_write_folder(location: Location) -> bool:
    """Whether files can be made beside the ledger."""
    return os.access(location.folder, os.W_OK | os.X_OK)


def is_read_only(name: str) -> bool:
    """Whether the mount that the file is on is read-only (statvfs(3))."""
    try:
        return bool(os.statvfs(name).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def is_read_without_locks(name: str) -> bool:
    """Whether SQLite cannot read the file *name* but without locks, and may do so.

    It lies on a read-only mount, and is the whole database: a reader without locks does not look at the logs. Whoever
    writes to it has its `-wal` and `-shm` open, so that both are there; with them it is read as usual.
    """
    beside = all(os.path.lexists(name + suffix) for suffix in ("-wal", "-shm"))
    return is_read_only(name) and not beside and not any(_size(name + suffix) for suffix in _LOGS)


@contextmanager
def unchanged(name: str) -> Iterator[None]:
    """Have what the block read, or found wrong, count only if the file *name* was not changed meanwhile.

    A mount can be read-only and the file system below it not, as in a container that is given somebody's folder to
    read. Where the file is read with locks, SQLite sees to it.

    Raises:
        RefusedToStart: it was changed; whatever the block has raised is its cause.
    """
    if not is_read_without_locks(name):
        yield
        return
    before, fault = _stamps(name), None
    try:
        yield
    except Exception as error:  # noqa: BLE001  # raised again, unless the change explains it
        fault = error
    if _stamps(name) != before:
        raise RefusedToStart(f"{Path(name).name} was changed while it was read: run the command again.") from fault
    if fault is not None:
        raise fault


def why_unreadable(name: str, fault: str) -> str:
    """Why SQLite could not open the existing file *name* for reading, and what to do; *fault* is its own word."""
    file = Path(name).name
    if not os.path.lexists(name):
        return "it is not there"
    logs = [name + suffix for suffix in _LOGS if _size(name + suffix)]
    beside = [name + suffix for suffix in ("", "-shm", *_LOGS) if os.path.lexists(name + suffix)]
    if not all(os.access(path, os.R_OK) for path in beside):
        return "this user may not read it, or what lies beside it; run the command as its owner"
    if is_read_only(name):
        if logs:
            log = Path(logs[0]).name
            return (
                f"{log} beside it has a part of the database, which SQLite cannot take in on a read-only file system; "
                f"copy {file} and {log} into another folder, and use the copy"
            )
    elif not os.access(Path(name).parent, os.W_OK):
        return (
            f"SQLite needs {file}-wal and {file}-shm beside it, and this user may not make them; run the command as "
            f"the folder's owner, or copy {file}, and {file}-wal if it is there, into another folder, and use the copy"
        )
    return fault


def _size(name: str) -> int:
    try:
        return Path(name).stat().st_size
    except OSError:
        return 0


def _stamps(name: str) -> list[tuple[int, int, int] | None]:
    """What changes when somebody writes to the database."""
    found: list[tuple[int, int, int] | None] = []
    for suffix in ("", *_LOGS):
        try:
            status = Path(name + suffix).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found
