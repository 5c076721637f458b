"""An import file, opened once and read through that one handle: a file, a pipe or standard input, plain or gzip."""

import errno
import gzip
import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from chatledger.console import streams
from chatledger.errors import RefusedToStart
from chatledger.storage.files import SQLITE_MAGIC, OwnFiles

STANDARD_INPUT = "-"
BUFFER_BYTES = 64 * 1024
_MAGIC_BYTES = 16
"""What has to be read to know what a file is; a pipe is not waited for longer."""
_HEAD_BYTES = 512
"""What of a file is looked at, at the most, to say what a wrong one seems to be."""
_GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8, which Windows programs put in front of a text and which says nothing."""

# What a file of other bytes than UTF-8 begins with: its mark, or `{` with the zeros of a wider form beside it.
_WIDER = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"{\x00\x00\x00", "UTF-32"),
    (b"\x00\x00\x00{", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"{\x00", "UTF-16"),
    (b"\x00{", "UTF-16"),
)
_ARCHIVES = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (_GZIP_MAGIC, "compressed twice"),
)


UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading an `Input` raises where the file or what it was compressed with is at fault; `reason` has the words."""


def reason(error: BaseException) -> str:
    """Why it could not be read."""
    return str((isinstance(error, OSError) and error.strerror) or error)


class _Descriptor(io.RawIOBase):
    """Reads a descriptor, counts what it has read, and stops waiting for more once it is told to."""

    def __init__(self, descriptor: int, *, may_wait: bool) -> None:
        self._descriptor = descriptor
        self._may_wait = may_wait
        self._woken, self._wake = os.pipe()
        self.done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._may_wait:
            ready, _, _ = select.select([self._descriptor, self._woken], [], [])
            if self._woken in ready:
                raise OSError(errno.ECANCELED, "the import was stopped")
        count = os.readv(self._descriptor, [buffer])
        self.done += count
        return count

    def stop(self) -> None:
        """Have a read that waits for a pipe end."""
        if not self.closed:
            os.write(self._wake, b"\x00")

    def close(self) -> None:
        if not self.closed:
            for descriptor in (self._descriptor, self._woken, self._wake):
                os.close(descriptor)
        super().close()


class _Peeked(io.RawIOBase):
    """Gives back first what was read to look at it: a pipe cannot be wound back."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        self._read = read
        head = b""
        # A pipe gives what is there, and that may be a byte.
        while len(head) < _MAGIC_BYTES and (more := read(_HEAD_BYTES - len(head))):
            head += more
        self.head = head
        self._rest = head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        found, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        if not found:
            found = self._read(len(buffer)) or b""
        buffer[: len(found)] = found
        return len(found)


class Input:
    """A file to import, as it was opened.

    `name` is what errors call it, `total` the bytes that `done` counts up to, or None where nobody knows. `path` is
    where SQLite finds the file, where it is one of SQLite's; else `text` has what it says, decompressed.
    """

    def __init__(self, raw: _Descriptor, name: str, *, total: int | None, regular: str | None) -> None:
        self._raw = raw
        self.name = name
        self.total = total
        self.path: Path | None = None
        peeked = _Peeked(raw.read)
        if peeked.head.startswith(_GZIP_MAGIC):
            unpacked = gzip.GzipFile(fileobj=io.BufferedReader(peeked, BUFFER_BYTES), mode="rb")
            peeked = _Peeked(unpacked.read1)
            if peeked.head.startswith(SQLITE_MAGIC):
                raise RefusedToStart(f"{name} is a compressed SQLite file: decompress it first (gunzip).")
        elif peeked.head.startswith(SQLITE_MAGIC):
            if regular is None:
                raise RefusedToStart(
                    f"{name} is an SQLite file, which cannot be read from a pipe: name the file itself."
                )
            self.path = Path(regular)
        self.head = peeked.head
        self.text: BinaryIO = io.BufferedReader(peeked, BUFFER_BYTES)
        _check_form(name, peeked.head)

    @property
    def done(self) -> int:
        """The bytes of the file that were read so far, before they were decompressed."""
        return self._raw.done

    def stop(self) -> None:
        """Have a thread that waits for more of it get an error instead."""
        self._raw.stop()

    def close(self) -> None:
        """Close it; nobody reads it any more."""
        self._raw.close()


def open_input(path: Path, own: OwnFiles) -> Input:
    """Open the file *path*, or standard input where that is `-`, and look at how it begins.

    Raises:
        RefusedToStart: it cannot be read, is one of the ledger's files, or of a form that no import takes.
    """
    name = "Standard input" if str(path) == STANDARD_INPUT else str(path)
    if str(path) == STANDARD_INPUT:
        if not streams.has_input():
            raise RefusedToStart("There is no standard input to read from.")
        place = Path("/dev/stdin")
    else:
        own.check(path)  # before it is opened: closing a handle on a database drops SQLite's locks
        place = path
    try:
        descriptor = os.dup(sys.stdin.fileno()) if name != str(path) else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        state = os.fstat(descriptor)
        raw = _Descriptor(descriptor, may_wait=not stat.S_ISREG(state.st_mode))
        try:
            own.check_state(name, state)
            return _looked_at(raw, name, place, state)
        except BaseException:
            raw.close()
            raise
    except UNREADABLE as error:
        raise RefusedToStart(f"{name} cannot be read: {reason(error)}.") from error


def _looked_at(raw: _Descriptor, name: str, place: Path, state: os.stat_result) -> Input:
    if stat.S_ISREG(state.st_mode):
        return Input(raw, name, total=state.st_size, regular=_where(place, state))
    if stat.S_ISBLK(state.st_mode) or stat.S_ISDIR(state.st_mode):
        raise RefusedToStart(f"{name} is a device or a folder, and no file to import.")
    return Input(raw, name, total=None, regular=None)


def _where(place: Path, state: os.stat_result) -> str | None:
    """The name of the open file by which SQLite can open it: `/dev/stdin` is only a way to it."""
    real = os.path.realpath(place)
    try:
        return real if os.path.samestat(state, Path(real).stat()) else None
    except OSError:
        return None


def _check_form(name: str, head: bytes) -> None:
    """Say at once of what cannot be lines of JSON what it is.

    Raises:
        RefusedToStart: it is an archive, or a text in another encoding.
    """
    for magic, kind in _ARCHIVES:
        if head.startswith(magic):
            raise RefusedToStart(f"{name} is {kind}: unpack it first.")
    for magic, kind in _WIDER:
        if head.startswith(magic):
            raise RefusedToStart(f"{name} is {kind}: convert it first (iconv -f {kind} -t UTF-8).")
