"""What the workers of one ledger share: a few numbers in memory, and locks that end with the process that holds them.

The numbers are written by whoever has the turn, before anybody is told what was done in it, and read by all without a
lock: each is one aligned machine word. The locks are POSIX locks on bytes of the board's own file, which nobody closes
while it lives: the kernel gives them up when their process dies (docs/decisions/0018-workers.md).
"""

import fcntl
import mmap
import os
import tempfile
import threading
import time

import msgspec

_QUEUE, _TURN, _REBUILD, _LIMITS = range(4)
"""The bytes that are locked."""
_TAKEN = (BlockingIOError, PermissionError)
"""What fcntl(2) says of a lock that somebody else has."""
(
    _UNFINISHED,
    _CHANGES,
    _GENERATION,
    _KEYS,
    _POSITION,
    _REBUILD_NUMBER,
    _REBUILD_CANCELLED,
    _REBUILD_GENERATION,
    _REBUILD_DONE,
    _REBUILD_TOTAL,
    _REBUILD_STARTED_NS,
    _FIELDS,
) = range(12)
_WORD_BYTES = 8
BUCKETS = 8 * 1250
"""The callers that rate limits remember, in so many rows."""
BUCKET_WORDS = 3
"""A row: a name's hash, tokens, and when they were counted."""
_BYTES = (_FIELDS + BUCKETS * BUCKET_WORDS) * _WORD_BYTES


class SharedRebuild(msgspec.Struct, frozen=True):
    """A rebuild that one of the workers does. `started_s` is by the monotonic clock, which all processes share."""

    generation: int
    events_done: int
    events_total: int
    started_s: float


class Board:
    """One process's access to it. Callable from any thread, but for the turn, which is the writer's."""

    def __init__(self, descriptor: int) -> None:
        """Look at the board in the file *descriptor*, which stays open as long as the process lives."""
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _BYTES)
        self._words = memoryview(self._map)[: _FIELDS * _WORD_BYTES].cast("q")
        table = memoryview(self._map)[_FIELDS * _WORD_BYTES :]
        self.bucket_names, self.bucket_values = table.cast("q"), table.cast("d")
        self._rebuild = threading.Lock()  # between this process's threads, which a POSIX lock does not tell apart

    @classmethod
    def new(cls, *, generation: int, position: int) -> "Board":
        """A board for workers that are about to be started."""
        descriptor = _memory_file()
        os.ftruncate(descriptor, _BYTES)
        board = cls(descriptor)
        board._words[_GENERATION], board._words[_POSITION] = generation, position
        return board

    def take_turn(self) -> None:
        """Wait for the turn to write.

        In two steps, so that whoever gives it up and wants it again at once stands behind those that wait: a lock alone
        would be taken again before the one that waits has woken up.
        """
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1, _QUEUE)
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1, _TURN)
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, _QUEUE)

    def give_turn(self) -> None:
        """Give it up."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, _TURN)

    @property
    def is_unfinished(self) -> bool:
        """Whether the last turn has not ended in order: its worker died, or lost its files."""
        return bool(self._words[_UNFINISHED])

    def begin(self) -> None:
        """What the files say may differ from the board from here on."""
        self._words[_UNFINISHED] = 1

    def finish(self) -> None:
        """The board says again what the files say."""
        self._words[_UNFINISHED] = 0

    @property
    def changes(self) -> int:
        """How many turns there were: another number than before, and somebody may have written."""
        return self._words[_CHANGES]

    def count_change(self) -> int:
        """Count a turn."""
        self._words[_CHANGES] += 1
        return self._words[_CHANGES]

    @property
    def generation(self) -> int:
        """The number of the live views."""
        return self._words[_GENERATION]

    @generation.setter
    def generation(self, number: int) -> None:
        self._words[_GENERATION] = number

    @property
    def position(self) -> int:
        """The newest position that readers see."""
        return self._words[_POSITION]

    @position.setter
    def position(self, position: int) -> None:
        self._words[_POSITION] = position

    @property
    def keys(self) -> int:
        """How often the API keys have changed."""
        return self._words[_KEYS]

    def count_keys(self) -> None:
        """Say that they have changed."""
        self._words[_KEYS] += 1

    def claim_rebuild(self) -> bool:
        """Be the one that rebuilds, or see to it that nobody does, until `release_rebuild`; whether nobody was."""
        if not self._rebuild.acquire(blocking=False):
            return False
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _REBUILD)
        except BaseException as error:
            self._rebuild.release()
            if isinstance(error, _TAKEN):
                return False
            raise
        self._words[_REBUILD_GENERATION] = 0  # what one that has died still shows
        return True

    def release_rebuild(self) -> None:
        """Let others."""
        self._words[_REBUILD_GENERATION] = 0
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, _REBUILD)
        finally:
            self._rebuild.release()

    def show_rebuild(self, generation: int) -> int:
        """Say that a rebuild has begun, behind `claim_rebuild`; its number."""
        words = self._words
        words[_REBUILD_NUMBER] += 1
        words[_REBUILD_DONE] = words[_REBUILD_TOTAL] = 0
        words[_REBUILD_STARTED_NS] = time.monotonic_ns()
        words[_REBUILD_GENERATION] = generation
        return words[_REBUILD_NUMBER]

    def note_rebuild(self, done: int, total: int) -> None:
        """Say how far it is."""
        self._words[_REBUILD_DONE], self._words[_REBUILD_TOTAL] = done, total

    @property
    def rebuild(self) -> SharedRebuild | None:
        """The rebuild that is under way, or None. One whose worker has died shows until the next claim."""
        words = self._words
        generation = words[_REBUILD_GENERATION]
        if not generation:
            return None
        started_s = words[_REBUILD_STARTED_NS] / 1e9
        return SharedRebuild(generation, words[_REBUILD_DONE], words[_REBUILD_TOTAL], started_s)

    def cancel_rebuild(self) -> None:
        """Ask whoever rebuilds now to stop."""
        self._words[_REBUILD_CANCELLED] = self._words[_REBUILD_NUMBER]

    def is_cancelled(self, number: int) -> bool:
        """Whether the rebuild *number* is to stop."""
        return self._words[_REBUILD_CANCELLED] >= number

    def lock_buckets(self) -> None:
        """Have the table of limits for this process alone, for some microseconds. For one thread of each process.

        Tried again and again and not waited for: the kernel would take a wait for it, while another thread has the
        turn that the other process waits for, for a deadlock.
        """
        while True:
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LIMITS)
            except _TAKEN:
                os.sched_yield()
            else:
                return

    def unlock_buckets(self) -> None:
        """Let the others."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, _LIMITS)


def _memory_file() -> int:
    """An empty file without a name."""
    if hasattr(os, "memfd_create"):  # not on macOS
        return os.memfd_create("chatledger-board")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
