"""What lies in a folder, byte by byte: only while this process has no connection (see `storage/connection.py`)."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """The files that hold data, by name: no lock, no shared memory, no empty write-ahead log."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.endswith((".lock", "-shm")):
            content = path.read_bytes()
            if content or not path.name.endswith("-wal"):
                found[path.name] = content
    return found
