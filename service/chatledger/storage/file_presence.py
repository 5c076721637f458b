"""Whether the ledger's files are still those that were opened: SQLite itself does not look in write-ahead mode.

Without it a server goes on with files that have no name any more, and all that it acknowledges is gone at its end.
"""

import os

from chatledger.storage.paths import Location


class FilePresence:
    """The names of one open ledger, compared with what lay there when it was opened."""

    def __init__(self, location: Location) -> None:
        """Note the files of *location*, which were opened just now."""
        self._names = () if location.memory else tuple(location.ledger + suffix for suffix in ("", "-wal", "-shm"))
        self._seen = {name: found for name in self._names if (found := _identity(name)) is not None}

    @property
    def is_replaced(self) -> bool:
        """Whether the ledger itself is not the file that it was."""
        return any(_identity(name) != self._seen.get(name) for name in self._names[:1])

    def missing(self) -> str | None:
        """The name of a file that was removed, renamed, or replaced by another one; None where all are there.

        The logs are made with the first write, so one that was not there yet is noted now.
        """
        for name in self._names:
            found = _identity(name)
            if name not in self._seen and found is not None:
                self._seen[name] = found
            elif found != self._seen.get(name):
                return name
        return None


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)  # noqa: PTH116  # a third of the time of Path.stat, for each group
    except OSError:
        return None
    return found.st_dev, found.st_ino
