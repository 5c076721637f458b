"""A thread that others wait for: what it meets unexpectedly never leaves them waiting.

Whatever its work raises, the thread first has its waiters answered and then begins again. Where that does not help, it
says so to its owner once, who answers whoever still comes, and ends the service in order. If even that fails, the
process ends at once, with a line: a supervisor starts it again, and after a crash there is nothing to mend.
"""

import asyncio
import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger("chatledger")

DEATHS_MAX = 5
"""A thread that has died so many times, each soon behind its start, does not begin again."""
STEADY_S = 10.0
"""A thread that has lived so long has started well."""
PAUSE_S = 0.05
"""Before the second beginning in a row; twice as long before each further one."""
DOUBLED_MAX = 5
EXIT_CODE = 70
"""Of a process that cannot answer any more (EX_SOFTWARE, sysexits.h)."""


class RestartingThread:
    """A daemon thread that calls *work* until that returns, again and again if it raises."""

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        *,
        recover: Callable[[], None] = lambda: None,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        """Make it; `start` starts it.

        Args:
            name: For the log.
            work: What the thread does. It returns when it is to end.
            recover: Called in the thread behind each failure, to answer whoever waits for what was under way and to
                leave things as *work* needs them. What it raises is one more failure.
            give_up: Called in the thread, once, when it does not begin again: answer whoever waits, and everybody who
                still comes, and have the service end. Without it the thread begins again however often it fails.
        """
        self.name = name
        self._work = work
        self._recover = recover
        self._give_up = give_up
        self._deaths = 0
        self._began_s: float | None = None
        self._pause = threading.Event()  # never set: a wait that no signal and no clock cuts short
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for its end, if it was started."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        failure: BaseException | None = None
        while self._give_up is None or self._deaths < DEATHS_MAX:
            try:
                if failure is not None:
                    self._begin_again(failure)
                    failure = None
                self._began_s = time.monotonic()
                self._work()
            except BaseException as error:  # noqa: BLE001  # whatever it is: somebody waits for this thread
                failure = error
                self._deaths += 1
            else:
                return
        self._end(failure)

    def _begin_again(self, failure: BaseException) -> None:
        began_s, self._began_s = self._began_s, None  # a recovery that fails is no life
        if began_s is not None and time.monotonic() - began_s > STEADY_S:
            self._deaths = 1
        self._recover()  # first of all: they wait
        forget_locals(failure)
        log.error("thread failed", thread=self.name, exc_info=failure)
        if self._deaths > 1:
            self._pause.wait(PAUSE_S * 2 ** min(self._deaths - 2, DOUBLED_MAX))

    def _end(self, failure: BaseException | None) -> None:
        try:
            if self._give_up is not None:
                self._give_up()
            log.error("thread ended", thread=self.name, exc_info=failure)
        except BaseException:  # noqa: BLE001  # nobody is left to answer
            end_process(f"the thread {self.name} has ended, and its callers cannot be answered")


def forget_locals(error: BaseException) -> None:
    """Let go of what the frames held that *error* went through, and keep its traceback.

    Statements of SQLite are among it as a rule, and as long as one is open a log cannot be copied back, nor a file
    detached. A frame that holds its own error is a circle, which waits for the garbage collector.
    """
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__


def call_in_loop(loop: asyncio.AbstractEventLoop | None, callback: Callable[[], object]) -> None:
    """Have the event loop call *callback*. Where the loop is closed nobody waits any more."""
    if loop is None:
        return
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():
            raise


async def in_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, for work that may raise anything: of StopIteration that would never tell (PEP 479)."""

    def contained() -> T:
        try:
            return work()
        except StopIteration as error:
            raise RuntimeError("the work has ended with StopIteration") from error

    return await asyncio.to_thread(contained)


def settle(future: "asyncio.Future[T]", outcome: T | BaseException, *, otherwise: Exception) -> bool:
    """Give whoever waits for *future* its outcome, or *otherwise* where no future takes that one (StopIteration).

    It raises nothing: others are answered behind this one. A future that was cancelled stays so, and is answered False.
    """
    try:
        if future.done():
            return False
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except BaseException:  # noqa: BLE001
        try:
            future.set_exception(otherwise)
        except asyncio.InvalidStateError:
            return False
    return True


def end_process(reason: str) -> NoReturn:
    """End this process at once, with one line on standard error if that can be written."""
    with contextlib.suppress(OSError):
        os.write(2, f"chatledger: {reason}; the process ends.\n".encode())
    os._exit(EXIT_CODE)
