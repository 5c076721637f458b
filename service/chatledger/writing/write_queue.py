"""What waits for the writer: commands in two lanes, and the few other things that it is asked to do.

A command that makes many events takes the writer as long as hundreds of small ones. So the small ones need not stand
behind all of those: whenever some of them wait, a group that has a large command is followed by one that has none.
"""

import enum
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from chatledger.domain.commands import AppendMessages, Command, ContinueFork, CreateSession, ForkSession
from chatledger.storage.connection import Connection
from chatledger.writing.command_group import Committed, Replayed, Submission

if TYPE_CHECKING:
    import asyncio

GROUP_EVENTS_MAX = 2_000
"""About how many events one transaction takes, some tens of milliseconds' worth; a single command may have more."""
GROUP_BYTES_MAX = 8 * 1024 * 1024
"""The same of bytes."""
LARGE_EVENTS = 50
LARGE_BYTES = 256 * 1024
"""From so many on a command is a large one."""


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A command whose outcome somebody waits for. `since_s` is by `time.perf_counter`."""

    submission: Submission
    size_bytes: int
    since_s: float
    future: "asyncio.Future[Committed | Replayed]"
    events: int

    @property
    def is_large(self) -> bool:
        """Whether it takes the writer much longer than an append of one message."""
        return self.events >= LARGE_EVENTS or self.size_bytes >= LARGE_BYTES


class AwaitErasures(msgspec.Struct, frozen=True, gc=False):
    """Somebody waits until all erasures that are recorded by now are finished."""

    future: "asyncio.Future[bool]"


class Job(msgspec.Struct, frozen=True, gc=False):
    """Something to do in a transaction on the ledger that is no command."""

    work: Callable[[Connection], None]


class Signal(enum.Enum):
    """What else the writer is told."""

    STOP = enum.auto()
    REPAIR = enum.auto()
    SWAP = enum.auto()


Task: TypeAlias = AwaitErasures | Job | Signal


def events_of(command: Command) -> int:
    """About how many events *command* becomes."""
    if isinstance(command, (AppendMessages, ContinueFork)):
        return len(command.messages)
    if isinstance(command, (CreateSession, ForkSession)):
        return 1 + len(command.messages)
    return 1


class WriteQueue:
    """Anybody puts; only the writer's thread takes, but for `take_all`."""

    def __init__(self, *, group_commands_max: int) -> None:
        self._group_commands_max = group_commands_max
        self._coming: SimpleQueue[Waiting | Task] = SimpleQueue()
        self._small: deque[Waiting] = deque()
        self._large: deque[Waiting] = deque()
        self._tasks: deque[Task] = deque()
        # What is in none of these for a moment. A fault in that moment leaves it here, and it goes where it belongs.
        self._arriving: Waiting | Task | None = None
        self._leaving: Waiting | None = None
        self._had_large = False
        self.group: list[Waiting] = []
        """What was taken last and is not answered yet."""
        self.task: Task | None = None
        """The same of a task."""

    def put(self, item: Waiting | Task) -> None:
        """Have *item* done; it wakes the writer up."""
        self._coming.put(item)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, as far as `gather` has seen."""
        return not (self._small or self._large or self._tasks)

    def gather(self, timeout_s: float | None) -> None:
        """See what has come; if nothing waits, wait until something comes, at most *timeout_s*."""
        self.put_back()
        if self.is_empty:
            try:
                self._sort_in(self._coming.get(timeout=timeout_s))
            except Empty:
                return
        self._look()

    def put_back(self) -> None:
        """Sort in what a fault has left between two places. Only for the writer's thread."""
        if self._leaving is not None:
            self._lane_of(self._leaving).appendleft(self._leaving)
            self._leaving = None
        if self._arriving is not None:
            self._sort_in(self._arriving)

    def _look(self) -> None:
        while True:
            try:
                self._sort_in(self._coming.get_nowait())
            except Empty:
                return

    def _sort_in(self, item: Waiting | Task) -> None:
        self._arriving = item
        if isinstance(item, Waiting):
            self._lane_of(item).append(item)
        else:
            self._tasks.append(item)
        self._arriving = None

    def _lane_of(self, waiting: Waiting) -> deque[Waiting]:
        return self._large if waiting.is_large else self._small

    def next_task(self) -> Task | None:
        """The next thing to do that is no command."""
        self.task = self._tasks.popleft() if self._tasks else None
        return self.task

    def next_group(self) -> list[Waiting]:
        """The commands that one transaction takes; none where none wait. They are `group` until that is emptied."""
        self.group = []
        with_large = bool(self._large) and not (self._small and self._had_large)
        self._take_small(0)
        self._had_large = with_large and self._take_large()
        return self.group

    def top_up(self) -> None:
        """Add the small commands to `group` that have come since."""
        self._look()
        self._take_small(sum(waiting.events for waiting in self.group))

    def _take_small(self, events: int) -> None:
        while self._small and len(self.group) < self._group_commands_max and events < GROUP_EVENTS_MAX:
            events += self._small[0].events
            self._move(self._small)

    def _take_large(self) -> bool:
        """Add one large command, and further ones as far as they fit; False where the group is full already."""
        events = size_bytes = 0
        while self._large and len(self.group) < self._group_commands_max:
            events += self._large[0].events
            size_bytes += self._large[0].size_bytes
            if events > self._large[0].events and (events > GROUP_EVENTS_MAX or size_bytes > GROUP_BYTES_MAX):
                break
            self._move(self._large)
        return events > 0

    def _move(self, lane: deque[Waiting]) -> None:
        self._leaving = waiting = lane.popleft()
        self.group.append(waiting)
        self._leaving = None

    def take_all(self) -> list[Waiting | Task]:
        """All that waits, of a writer that takes nothing any more. Callable from any thread."""
        found: list[Waiting | Task] = []
        for lane in (self._small, self._large, self._tasks):
            while lane:
                try:
                    found.append(lane.popleft())
                except IndexError:  # another thread had the same in mind
                    break
        while True:
            try:
                found.append(self._coming.get_nowait())
            except Empty:
                return found
