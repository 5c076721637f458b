"""When the writer carries out what erasures have left to do: their steps, and the views that are built behind them."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import structlog

from chatledger.domain.timestamps import now_us
from chatledger.errors import Overloaded, RebuildRunning
from chatledger.settings import Settings
from chatledger.views.rebuilder import Rebuilder
from chatledger.writing import erasure
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.committer import Committer
from chatledger.writing.erasure import Eraser, State

if TYPE_CHECKING:
    import asyncio

log = structlog.get_logger("chatledger.writer")

HELD_PAUSE_S = 1.0
"""How long until the next try, once those who wait were told that a reader holds the logs."""
FAILURE_PAUSE_S = 5.0
"""The same where it failed, as on a full disk."""
SCRUB_PAUSE_S = 0.1
"""Between two looks whether views are built that the erasures wait for."""

Answer = Callable[["asyncio.Future[bool]", bool], None]


class _Waiting(NamedTuple):
    """Somebody who waits for what is recorded, and since when."""

    future: "asyncio.Future[bool]"
    since_s: float


class ErasureMaintenance:
    """For the writer's thread. `due_s` is by the monotonic clock."""

    def __init__(
        self,
        committer: Committer,
        settings: Settings,
        checkpointer: Checkpointer,
        rebuilder: Rebuilder,
        *,
        rebuild: Callable[[], None],
        answer: Answer,
    ) -> None:
        """Make it; *rebuild* begins to build the views anew beside the live ones, *answer* tells one who waits."""
        self._committer = committer
        self._settings = settings
        self._checkpointer = checkpointer
        self._rebuilder = rebuilder
        self._rebuild = rebuild
        self._answer = answer
        self._eraser = Eraser(committer, checkpointer.copy_beside)
        self._is_new = True
        self._asking: list[_Waiting] = []
        self._waiting: list[tuple[_Waiting, int]] = []  # each with the last erasure that it waits for
        self._step_s = 0.0  # a crash may have left some
        self._scrub_s = math.inf
        self.unscrubbed = 0
        """How many finished erasures may have copies in the views' file."""
        self.scrub_by_us = 0
        """When the first of them has to have none, in µs since the epoch."""

    @property
    def due_s(self) -> float:
        """When `run` has something to do again."""
        return min(self._step_s, self._scrub_s)

    @property
    def overdue(self) -> int:
        """How many erasures should have no copies any more and may have."""
        return self.unscrubbed if self.unscrubbed and now_us() > self.scrub_by_us else 0

    def expect(self) -> None:
        """An erasure was recorded: the next step is due."""
        self._step_s = 0.0

    def wait(self, future: "asyncio.Future[bool]") -> None:
        """Tell *future* once the erasures that are recorded by now are finished, or that something is in the way."""
        self._asking.append(_Waiting(future, time.monotonic()))
        self._step_s = 0.0

    def views_replaced(self) -> None:
        """Other views are live: what they have of erased sessions goes next."""
        self._eraser.clear_views_again()
        self._step_s = 0.0
        self._scrub_s = time.monotonic() + SCRUB_PAUSE_S

    def start_over(self) -> None:
        """Take nothing for granted: a failure may have come anywhere."""
        self._eraser = Eraser(self._committer, self._checkpointer.copy_beside)
        self._is_new, self._step_s = True, 0.0

    def run(self) -> None:
        """Do what is due. The caller has the ledger for itself.

        Raises:
            DomainError, CommitFailed, SQLError, OSError: it could not be done now; call `postpone`.
        """
        now_s = time.monotonic()
        if now_s >= self._step_s:
            self._step()
        if now_s >= self._scrub_s:
            self._scrub()

    def postpone(self) -> None:
        """A step has failed: those who wait are told so, and it is tried again, as long as it takes."""
        self._step_s = time.monotonic() + FAILURE_PAUSE_S
        self._scrub_s = max(self._scrub_s, self._step_s) if self._scrub_s < math.inf else math.inf
        self.give_up()

    def give_up(self) -> None:
        """Tell all who wait that they are not finished."""
        for waiting in (*[waiting for waiting, _ in self._waiting], *self._asking):
            self._answer(waiting.future, False)  # noqa: FBT003
        self._waiting, self._asking = [], []

    def _step(self) -> None:
        if self._is_new:
            self._eraser.clear_views_again()
            self._is_new = False
        state = self._eraser.step()
        self._tell()
        if state is State.DONE:
            self._step_s = math.inf
            self._plan_scrub()
        elif state is State.HELD:
            self._hold()

    def _hold(self) -> None:
        """A reader holds the logs: others write before the next try."""
        now_s = time.monotonic()
        since_s = now_s - self._settings.busy_timeout_ms / 1000
        for waiting, _ in self._waiting:
            if waiting.since_s < since_s:
                self._answer(waiting.future, False)  # noqa: FBT003
        self._waiting = [each for each in self._waiting if each[0].since_s >= since_s]
        self._step_s = now_s + (erasure.TRY_PAUSE_S if self._waiting else HELD_PAUSE_S)

    def _tell(self) -> None:
        """Tell those whose erasures are finished."""
        unfinished = self._eraser.unfinished
        self._waiting += [(waiting, unfinished[-1] if unfinished else 0) for waiting in self._asking]
        self._asking = []
        first = unfinished[0] if unfinished else math.inf
        for waiting, last in self._waiting:
            if last < first:
                self._answer(waiting.future, True)  # noqa: FBT003
        self._waiting = [each for each in self._waiting if each[1] >= first]

    def _plan_scrub(self) -> None:
        """Have the views built in half of the time that there is: the rest is for the building, and for failures."""
        self.unscrubbed, oldest_us = erasure.unscrubbed(self._committer.ledger)
        if not self.unscrubbed:
            self._scrub_s = math.inf
            return
        self.scrub_by_us = oldest_us + self._settings.scrub_s * 1_000_000
        wait_s = (self.scrub_by_us - now_us()) / 1_000_000 - self._settings.scrub_s / 2
        self._scrub_s = time.monotonic() + min(max(wait_s, 0.0), self._settings.scrub_s / 2)

    def _scrub(self) -> None:
        self._eraser.note_scrubbed()
        self._plan_scrub()
        if self._scrub_s > time.monotonic():
            return
        self._scrub_s = time.monotonic() + SCRUB_PAUSE_S
        if self._rebuilder.progress is None:
            try:
                self._rebuild()
            except (RebuildRunning, Overloaded):
                return
            # Where it fails it is tried again, but not at once.
            self._scrub_s = time.monotonic() + max(FAILURE_PAUSE_S, self._settings.scrub_s / 10)
            log.info("scrub started", erasures=self.unscrubbed)
