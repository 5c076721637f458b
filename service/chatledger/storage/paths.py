"""Where a ledger lies: the names of its files, who may write to them, and how a finished file gets its name."""

import errno
import fcntl
import glob
import itertools
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from chatledger import os_errors
from chatledger.errors import LedgerLocked, RefusedToStart
from chatledger.settings import Settings

BUILDING = ".building"  # behind the name of views that are not whole yet
UNFINISHED = ".unfinished"  # behind that of any other file that is not
NETWORK_FILESYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "9p",
        "ceph",
        "glusterfs",
        "lustre",
        "fuse.sshfs",
        "fuse.s3fs",
    }
)

NAME_BYTES_MAX = 200
"""Of the ledger's file: the names of the files beside it are made of its own, and end at 255 bytes as a rule."""
PATH_BYTES_MAX = 450
"""Of the ledger's path: SQLite opens no path of more than 512 bytes (MAX_PATHNAME in its os_unix.c)."""

ORPHANS_WAIT_S = 15.0
"""How long to wait for workers whose supervisor was killed: they are about to end."""
ORPHANS_PAUSE_S = 0.02
LOOK_WAIT_S = 0.1
"""How long to wait for whoever only looks whether the ledger is held: that takes much less than a millisecond."""

_memory_names = itertools.count(1)


class Location(msgspec.Struct, frozen=True):
    """Where a ledger and its views live: files, or names of databases in this process's memory.

    The views beside `ledger.db` are `ledger.db.views.000001.db`, and each rebuild makes the next number: two
    databases must never have the same name while one of them is open, or one's WAL becomes the other's.
    """

    ledger: str
    memory: bool

    @classmethod
    def of(cls, settings: Settings) -> "Location":
        """The location that *settings* name. Each call for `:memory:` is a new one.

        Raises:
            RefusedToStart: no file can have this name, or SQLite would give it another one (`check_name`).
        """
        if settings.in_memory:
            return cls(f"/chatledger-{os.getpid()}-{next(_memory_names)}", memory=True)
        return cls(_absolute(settings.database_path), memory=False)

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return Path(self.ledger).parent

    def make_folder(self) -> None:
        """Make the folder of the files, if it is not there, so that it is there also after a power cut."""
        if self.memory:
            return
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # a file has the name of a folder
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error
        for made in missing:
            sync_folder(made.parent)

    def views(self, generation: int) -> str:
        """The name of the views of one generation."""
        return f"{self.ledger}.views.{generation:06d}.db"

    def remove_unfinished_views(self) -> None:
        """Remove what a crash in the middle of a rebuild has left, or in the middle of a removal: logs without views.

        These have what was erased since, and a later generation of their number would take them for its own.
        """
        if self.memory:
            return
        name = glob.escape(Path(self.ledger).name)
        for leftover in self.folder.glob(f"{name}.views.*{BUILDING}*"):
            leftover.unlink(missing_ok=True)
        for log in self.folder.glob(f"{name}.views.*.db-*"):
            if not log.with_name(log.name.rpartition("-")[0]).exists():
                log.unlink(missing_ok=True)

    def generations(self) -> list[int]:
        """The numbers of the views files that are there, in order."""
        if self.memory or not self.folder.is_dir():
            return []
        pattern = re.compile(re.escape(Path(self.ledger).name) + r"\.views\.(\d{6})\.db")
        found = (pattern.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)


def _absolute(path: str) -> str:
    """The path without links, if it is one that both the system and SQLite can open.

    Raises:
        RefusedToStart: it is not.
    """
    check_name(path)
    try:
        found = os.path.realpath(path)
    except OSError as error:  # the working directory is gone
        os_errors.refuse(error, path)
    check_name(found)
    encoded = found.encode()
    if len(encoded) > PATH_BYTES_MAX or len(Path(found).name.encode()) > NAME_BYTES_MAX:
        shown = os_errors.shortened(path)
        raise RefusedToStart(
            f"The path {shown} is too long: the name of a ledger has at most {NAME_BYTES_MAX} bytes, and its whole "
            f"path at most {PATH_BYTES_MAX}."
        )
    return found


def check_name(name: str) -> str:
    """Return *name*, if it means the same file to SQLite as to Python.

    SQLite takes names as UTF-8, Python writes them in the locale's encoding. Where the two differ there are two files:
    a backup was verified under one name, and an empty file left under the other.

    Raises:
        RefusedToStart: they differ, or it is no name at all.
    """
    shown = name.encode("ascii", "backslashreplace").decode()
    if "\0" in name:
        raise RefusedToStart(f"The file name {shown} has the character NUL.")
    try:
        if os.fsencode(name) == name.encode():
            return name
    except UnicodeEncodeError:  # one of the two cannot write it at all
        pass
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        raise RefusedToStart(f"The file name {shown} is not UTF-8, as SQLite needs it: rename the file or its folder.")
    raise RefusedToStart(
        f"The file name {shown} is written differently in the locale's encoding ({encoding}) and in UTF-8, which "
        f"SQLite uses: choose a name in ASCII, or a UTF-8 locale (LC_ALL=C.UTF-8)."
    )


def is_file(path: str) -> bool:
    """Whether there is a file of that name.

    Raises:
        RefusedToStart: something else has the name, or the system does not say.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        os_errors.refuse(error, path)
    if stat.S_ISDIR(mode):
        raise RefusedToStart(f"{path} is a folder: name a file, such as {Path(path, 'ledger.db')}.")
    if not stat.S_ISREG(mode):
        raise RefusedToStart(f"{path} is no regular file: name another one.")
    return True


_ESCAPED = re.compile(rb"\\([0-7]{3})")  # proc(5) writes a space, a tab, the end of a line and a backslash so


def filesystem_of(path: Path, mountinfo: str) -> str:
    """The type of the file system that *path* is on, by the text of /proc/self/mountinfo (proc(5))."""
    best, kind = "", "unknown"
    for line in mountinfo.split("\n"):
        mount, separator, rest = line.partition(" - ")
        if not separator:
            continue
        written = mount.split(" ")[4].encode("utf-8", "surrogateescape")
        point = os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), written))
        if (path == Path(point) or Path(point) in path.parents) and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    return kind


def check_filesystem(location: Location, settings: Settings) -> None:
    """Refuse a network file system, unless a setting insists.

    Raises:
        RefusedToStart: the ledger lies on one.
    """
    mountinfo = Path("/proc/self/mountinfo")
    if location.memory or settings.allow_network_filesystem or not mountinfo.exists():
        return
    kind = filesystem_of(location.folder, mountinfo.read_text("utf-8", "surrogateescape"))
    if kind in NETWORK_FILESYSTEMS:
        raise RefusedToStart(
            f"{settings.database_path} is on a network file system ({kind}), where SQLite's locks may not hold and "
            f"a second writer could damage the ledger. Use a local disk, or set "
            f"CHATLEDGER_ALLOW_NETWORK_FILESYSTEM=1 if this is the only machine that uses it."
        )


@contextmanager
def exclusive(location: Location) -> Iterator[int | None]:
    """Hold the ledger for this process: one writes, others may read.

    The lock is on a file of its own (`ledger.db.lock`), never on the database, and ends with the process, or with the
    last of those that have inherited its descriptor, which the block is given: the workers of one server. A server
    notes in it where it serves (`note_address`). Where workers are left whose supervisor was killed, it waits for them.

    Raises:
        LedgerLocked: another process holds it.
    """
    if location.memory:
        yield None
        return
    descriptor, is_new = _locked(location)
    try:
        os.ftruncate(descriptor, 0)  # what the one before has noted
        os.pwrite(descriptor, msgspec.json.encode(_Holder(os.getpid())), 0)
        yield descriptor
    except BaseException:
        # A refusal leaves nothing where no ledger is. Whoever gets this lock next looks whether it still has its name.
        if is_new and not os.path.lexists(location.ledger):
            Path(_lock_name(location)).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _locked(location: Location) -> tuple[int, bool]:
    """The descriptor of the lock's file, which is held, and whether it was made for it.

    Raises:
        LedgerLocked: another process holds it.
    """
    name = _lock_name(location)
    while True:
        is_new = not os.path.lexists(name)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, location)
            if _has_name(descriptor, name):
                return descriptor, is_new
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever made it has removed it meanwhile


def _has_name(descriptor: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), Path(name).stat())
    except FileNotFoundError:
        return False


def is_held(location: Location) -> bool | None:
    """Whether a server or a command holds the ledger; None where this user may not look. It makes no file.

    The shared lock that it takes for a moment is released at once; whoever starts just then tries again (`_lock`).
    """
    try:
        descriptor = os.open(_lock_name(location), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)


class _Holder(msgspec.Struct, frozen=True):
    """What a lock file says from its first moment on: the process that took the lock."""

    pid: int


def _lock(descriptor: int, location: Location) -> None:
    began_s = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited_s = time.monotonic() - began_s
            if waited_s > LOOK_WAIT_S and (waited_s > ORPHANS_WAIT_S or not _is_orphaned(location)):
                raise LedgerLocked(
                    f"{location.ledger} is in use: a server or another command of chatledger writes to it."
                ) from None
            time.sleep(ORPHANS_PAUSE_S)
        else:
            return


def _is_orphaned(location: Location) -> bool:
    """Whether the process that took the lock is gone, so that only workers of it are left."""
    try:
        holder = msgspec.json.decode(Path(_lock_name(location)).read_bytes(), type=_Holder)
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except (msgspec.DecodeError, OSError):
        pass
    return False


class Address(msgspec.Struct, frozen=True):
    """Where a server is, and the credential that commands beside it show: whoever can read this owns the files."""

    url: str
    credential: str
    certificate: str = ""
    """The server's own, as PEM, where it speaks TLS: commands take no other one for it."""
    pid: int = 0


def note_address(location: Location, address: Address) -> None:
    """Tell the other commands where the server is that holds the ledger: they can ask it. The caller holds it."""
    if not location.memory:
        noted = msgspec.structs.replace(address, pid=os.getpid())
        Path(_lock_name(location)).write_bytes(msgspec.json.encode(noted))


def noted_address(location: Location) -> Address | None:
    """What a server has noted; only of use while the ledger is held."""
    try:
        return msgspec.json.decode(Path(_lock_name(location)).read_bytes(), type=Address)
    except msgspec.DecodeError:
        return None


def is_known(location: Location) -> bool:
    """Whether a command or a server has worked on this ledger before: it has left the lock's file."""
    return os.path.lexists(_lock_name(location))


def _lock_name(location: Location) -> str:
    return location.ledger + ".lock"


@contextmanager
def unfinished(name: str) -> Iterator[str]:
    """Claim `NAME.unfinished`, empty and for its owner alone, for the file that is to be *name*.

    It is removed if the block raises. Whoever is killed leaves it, and the next one takes it over. The lock on it is of
    another kind than SQLite's, and its descriptor is closed only once no connection to the file is open any more:
    closing it drops SQLite's locks.

    Raises:
        RefusedToStart: there is such a file, or something of one; or another process is making it.
        OSError: the folder does not take it.
    """
    for taken in (name, name + "-wal", name + "-shm", name + "-journal"):
        if os.path.lexists(taken):
            raise RefusedToStart(f"{taken} is there already; it was left as it is.")
    making = name + UNFINISHED
    with claimed(making, name) as descriptor:
        os.ftruncate(descriptor, 0)
        for suffix in ("-wal", "-shm", "-journal"):
            Path(making + suffix).unlink(missing_ok=True)
        try:
            yield making
        except BaseException:
            remove(making)
            raise


@contextmanager
def claimed(making: str, name: str) -> Iterator[int]:
    """Open *making*, which is to become *name*, for this process and its owner alone; the block gets its descriptor.

    What it holds is what a killed one has left, if anything. The lock ends with the block.

    Raises:
        RefusedToStart: it is something else, or another process is making it.
        OSError: the folder does not take it.
    """
    descriptor = os.open(making, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedToStart(f"{making} is being written by another process.") from None
        state = os.fstat(descriptor)
        if not _has_name(descriptor, making):
            raise RefusedToStart(f"{name} was finished by another process just now.")
        if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
            raise RefusedToStart(f"{making} is there already; it was left as it is.")
        os.fchmod(descriptor, 0o600)
        yield descriptor
    finally:
        os.close(descriptor)


def remove(name: str) -> None:
    """Remove a database that nobody has open, with whatever SQLite may have left beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(name + suffix).unlink(missing_ok=True)


def put_in_place(name: str, final_name: str) -> None:
    """Give a finished, closed database its name, so that it has it also after a power cut."""
    Path(name).replace(final_name)
    sync_folder(Path(final_name).parent)


def sync_folder(folder: Path) -> None:
    """Have the names of *folder*'s files on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
