"""The list of erasures beside the ledger (`LEDGER.erasures`), which a restore of an older copy applies again.

One JSON object a line. It is only ever added to, a synced line at a time, so that adding one costs the same however
long it is, and a power cut can tear its last line and no other. That erasure was not carried out yet.
"""

import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from chatledger.storage.paths import sync_folder

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
        msgspec.DecodeError: a line is none of ours, and is not a last one that is torn.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        before = b""
        for line in file:
            if before:
                yield _decode(before)
            before = line
        if before and not _is_torn(before):
            yield _decode(before)


def _is_torn(line: bytes) -> bool:
    """Whether a power cut has kept a part of the last line from the disk: its end, or blocks before that, as zeros."""
    return not line.endswith(b"\n") or b"\0" in line


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
    """Where the next line begins: behind the last one that is not torn."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - _READ_BYTES)
    tail = os.pread(descriptor, size - start, start)
    last = tail.rfind(b"\n", 0, -1) + 1
    return start + last if _is_torn(tail[last:]) else size
