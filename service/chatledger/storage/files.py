"""Files that we write beside the databases: whole or not at all, and never in the place of one of the ledger's.

Every file is written beside its place, for its owner alone, synced, and only then gets its name, which is synced too. A
failure leaves the old file and nothing else. A kill leaves `NAME.unfinished`, which the next one takes over.
"""

import os
import re
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from chatledger import os_errors
from chatledger.console import streams
from chatledger.errors import RefusedToStart
from chatledger.settings import Settings
from chatledger.storage.paths import UNFINISHED, Location, claimed, sync_folder

BUFFER_BYTES = 256 * 1024
"""What is gathered before it is handed to the system."""
STANDARD_OUTPUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
"""The names by which standard output is asked for, whatever it leads to."""
NOWHERE = "/dev/null"

SQLITE_MAGIC = b"SQLite format 3\x00"
"""What every SQLite file begins with (https://www.sqlite.org/fileformat.html section 1.3)."""
KEY_MAGIC = b"PRIVATE+KEY+"

# What may stand behind the ledger's name in those of its files (docs/operations/run.md, The files).
_SUFFIX = re.compile(
    r"(-wal|-shm|-journal)?|\.(key|lock|erasures)(\.unfinished|\.new)?|\.views\.\d{6}\.db([-.].*)?|\.new([-.].*)?",
    re.DOTALL,
)


class Output:
    """Where an export, a head or a list is written to: a descriptor, and the *name* by which its errors speak of it."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        """Write *data* behind what was written before.

        Raises:
            RefusedToStart: it cannot be written.
        """
        self._waiting += data
        if len(self._waiting) >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand all of it to the system.

        Raises:
            RefusedToStart: it cannot be written.
        """
        waiting, self._waiting = memoryview(self._waiting), bytearray()
        with naming(self._name):
            while waiting:
                try:
                    waiting = waiting[os.write(self._descriptor, waiting) :]
                except BlockingIOError:  # a pipe that another program has set so
                    select.select([], [self._descriptor], [])


class _StandardOutput(Output):
    """The same of standard output, which is written as the standard streams are (`streams.py`)."""

    def __init__(self) -> None:
        super().__init__(sys.stdout.fileno(), "Standard output")

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        sys.stdout.buffer.write(waiting)
        streams.check_output()


@contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Say of what the system refuses that *name* cannot be used.

    Raises:
        RefusedToStart: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        os_errors.refuse_about(str(name), error)


@contextmanager
def replacing(path: str | Path) -> Iterator[Output]:
    """Write the file *path* anew: it is the old one until the block ends, and then the new one, also after a power cut.

    Where *path* is a link, it stays one, and the file that it leads to is written.

    Raises:
        RefusedToStart: it cannot be written, or another process is writing it. The old file is as it was.
    """
    target = os.path.realpath(path)
    making = target + UNFINISHED
    with ExitStack() as stack:
        with naming(path):
            descriptor = stack.enter_context(claimed(making, str(path)))
        written = Output(descriptor, str(path))
        try:
            with naming(path):
                os.ftruncate(descriptor, 0)
            yield written
            written.flush()
            with naming(path):
                os.fsync(descriptor)
                Path(making).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(making).unlink(missing_ok=True)
            raise
        with naming(path):
            sync_folder(Path(target).parent)


class OwnFiles(msgspec.Struct, frozen=True):
    """The files of the ledger at *location*, and *others* that the service needs: keys and certificates."""

    location: Location
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, location: Location, settings: Settings) -> "OwnFiles":
        """Those of *settings*."""
        named = (settings.signing_key, settings.tls_key, settings.tls_certificate, settings.jwks)
        return cls(location, tuple(name for name in named if name and "://" not in name))

    def check(self, path: str | Path) -> None:
        """Refuse *path* as something else than what it is: an output, a backup, an import.

        Looked at by device and inode, and by name where nothing is there yet: what lies at the name of a write-ahead
        log is one to SQLite.

        Raises:
            RefusedToStart: it is one of these files.
        """
        real = os.path.realpath(path)
        with suppress(OSError):
            self.check_state(path, Path(real).stat())
        if real in map(os.path.realpath, self.others) or self._is_ours_by_name(real):
            _refuse(path)

    def check_state(self, path: str | Path, state: os.stat_result) -> None:
        """The same of what is open already: *state* is that of its descriptor, *path* how errors call it.

        Raises:
            RefusedToStart: it is one of these files.
        """
        for name in self._existing():
            with suppress(OSError):
                if os.path.samestat(state, Path(name).stat()):
                    _refuse(path)

    def _existing(self) -> Iterator[str]:
        yield from self.others
        if self.location.memory:
            return
        ledger = Path(self.location.ledger).name
        with suppress(OSError):
            for name in os.listdir(self.location.folder):  # noqa: PTH208  # names, not paths
                if name.startswith(ledger) and _SUFFIX.fullmatch(name, len(ledger)):
                    yield str(self.location.folder / name)

    def _is_ours_by_name(self, real: str) -> bool:
        if self.location.memory:
            return False
        folder, name = os.path.split(real)
        ledger = Path(self.location.ledger).name
        if not (name.startswith(ledger) and _SUFFIX.fullmatch(name, len(ledger))):
            return False
        try:
            return Path(folder).samefile(self.location.folder)
        except OSError:  # a folder that is not there is not the ledger's, or the ledger is not there either
            return folder == str(self.location.folder)


def _refuse(path: str | Path) -> NoReturn:
    raise RefusedToStart(f"{path} is the ledger itself, or one of its files: name another file.")


def check_output(path: Path | None, own: OwnFiles) -> None:
    """Refuse what `output` would refuse, before there is anything to write.

    Raises:
        RefusedToStart: *path* is one of the ledger's files, another database or key, or not to be written.
    """
    if path is None or str(path) in STANDARD_OUTPUT:
        streams.check_output()
        with suppress(OSError, ValueError):
            own.check_state("Standard output", os.fstat(sys.stdout.fileno()))
        return
    if str(path) == NOWHERE:
        return
    own.check(path)
    with naming(path):
        try:
            state = path.stat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(state.st_mode):
            raise RefusedToStart(
                f"{path} is no regular file: leave the option out and redirect standard output, if it is to go there."
            )
        with path.open("rb") as file:
            magic = file.read(len(SQLITE_MAGIC))
    if magic == SQLITE_MAGIC or magic.startswith(KEY_MAGIC):
        raise RefusedToStart(f"{path} is a database or a key; it was left as it is.")


@contextmanager
def output(path: Path | None, own: OwnFiles) -> Iterator[Output]:
    """Where a command writes what it was asked for: standard output, or the file *path*, once all of it is there.

    Raises:
        RefusedToStart: as `check_output`, or it cannot be written. The file is as it was.
    """
    check_output(path, own)
    if path is None or str(path) in STANDARD_OUTPUT:
        written: Output = _StandardOutput()
        yield written
        written.flush()
    elif str(path) == NOWHERE:
        with Path(NOWHERE).open("wb", buffering=0) as file:
            yield Output(file.fileno(), NOWHERE)
    else:
        with replacing(path) as written:
            yield written
