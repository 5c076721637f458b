"""The list of erasures beside the ledger (`LEDGER.erasures`), which a restore of an older copy applies again.

One JSON object a line. It is only ever added to, a synced line at a time, so that adding one costs the same however
long it is, and a power cut can tear its last line and no other. That erasure was not carried out yet.
"""

import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from service.location import sync_folder

SUFFIX = ".erasures"
"""Behind the ledger's name."""
_READ_BYTES = 64 * 1024


class Erasure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the list: which session of which ledger was erased, or which message of it, when, why and by whom."""

    ledger_id: str
    tenant: str
    session: str
    message: str | None = None
    position: int
    time: str
    reason: str
    actor: str


_decode = msgspec.json.Decoder(Erasure).decode


def listed_in(path: Path) -> Iterator[Erasure]:
    """The erasures in the list at *path*, the oldest first; none where there is no such file.

    Raises:
        msgspec.DecodeError: a line that is not the last is none of ours.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in _whole_lines(file):
            yield _decode(line)


def _whole_lines(lines: Iterator[bytes]) -> Iterator[bytes]:
    """All lines but a last one that is torn."""
    before: bytes | None = None
    for line in lines:
        if before is not None:
            yield before
        before = line
    if before is not None and _is_whole(before):
        yield before


def _is_whole(line: bytes) -> bool:
    try:
        _decode(line)
    except msgspec.DecodeError:
        return False
    return line.endswith(b"\n")


def listed_positions(path: Path, ledger_id: str, wanted: Collection[int]) -> set[int]:
    """Which of the positions *wanted* of this ledger are in the list."""
    return {each.position for each in listed_in(path) if each.ledger_id == ledger_id and each.position in wanted}


def add(path: Path, entries: list[Erasure]) -> None:
    """Add *entries*, each of which is on the disk before the next is begun.

    Raises:
        OSError: the file or the folder does not take it.
    """
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = _end_of_whole_lines(descriptor)
        os.ftruncate(descriptor, end)
        for entry in entries:
            line = msgspec.json.encode(entry) + b"\n"
            written = os.pwrite(descriptor, line, end)
            if written < len(line):  # a full disk takes a part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
            end += written
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def _end_of_whole_lines(descriptor: int) -> int:
    """Where the next line begins: behind the last line that is not torn."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - _READ_BYTES)
    tail = os.pread(descriptor, size - start, start)
    if tail and not tail.endswith(b"\n"):
        tail = tail[: tail.rfind(b"\n") + 1]
    last = tail.rfind(b"\n", 0, -1) + 1
    # A line whose beginning was not written ends in a newline all the same.
    return start + (len(tail) if not tail or _is_whole(tail[last:]) else last)
