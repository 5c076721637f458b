"""A wall clock that jumps while a server runs: its offset is in a file that somebody else writes to."""

import mmap
import secrets
import struct
import time
import uuid
from pathlib import Path

import uuid_utils

DAY_S = 24 * 60 * 60
_OFFSET = struct.Struct("<q")


def set_offset(path: Path, seconds: int) -> None:
    """Move the clock of whoever reads *path* so far from the machine's."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(_OFFSET.pack(seconds * 10**9))


def install(path: Path) -> None:
    """Make the wall clock of this process follow *path*: Python's own, and that of new ids."""
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    real_ns = time.time_ns

    def time_ns() -> int:
        return real_ns() + int(_OFFSET.unpack_from(shared)[0])

    def uuid7() -> uuid.UUID:
        # RFC 9562 section 5.7. The real one reads the machine's clock past Python.
        bits = (time_ns() // 10**6) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
        return uuid.UUID(int=bits)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    uuid_utils.uuid7 = uuid7  # type: ignore[assignment]  # of the standard library's class
