"""A fault at the n-th call that one thread of ours makes to something that is not ours.

Python's own profiler sees every call, of C functions too, before it is made, and what it raises is raised there instead
of the call (https://docs.python.org/3/library/sys.html#sys.setprofile). So nobody has to list the calls: a new one, of
a log, a clock, a queue, a lock, a metric or SQLite, is met by itself.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, FrameType
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[2]
_OURS = tuple(f"{ROOT / folder}/" for folder in ("service", "projections"))
LOOP = "loop"
"""The name that the event loop's thread has here."""
_UNFAILING = (" lock.__exit__", " lock.release", " RLock.__exit__", " BaseEventLoop.call_soon")
"""To give a lock back does not fail; and where it did, nobody could do anything. Nor does asyncio fail, in C, in the
middle of telling a future's waiter of its result: that call is not ours."""
Profile: TypeAlias = Callable[[FrameType, str, Any], None]


class Fault(Exception):
    """What is raised, where any exception would do."""


class HardFault(BaseException):
    """The same, of a kind that `except Exception` does not catch."""


FAILURES: dict[str, Callable[[], BaseException]] = {
    "Exception": Fault,
    "BaseException": HardFault,
    "OSError": lambda: OSError(28, "No space left on device"),
    "StopIteration": StopIteration,
    "MemoryError": MemoryError,
}
"""By name, as kinds of the system's are caught in places where others are not."""


class CallFaults:
    """Counts the calls of the threads whose names begin with *thread*, and has call number *at* (from 1) fail.

    Of the event loop's thread, which does the harness's work too, only the functions *only* count.
    """

    def __init__(self, thread: str, at: int, failure: Callable[[], BaseException], only: Collection[str] = ()) -> None:
        self.calls: list[str] = []
        self.hit = ""
        self.armed = True
        """Whether calls count, from now on."""
        self._thread, self._at, self._failure, self._only = thread, at, failure, only
        self._lock = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the threads that are started in the block."""
        threading.setprofile(self._begin)
        if self._thread == LOOP:
            sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]  # as its documentation says

    def _begin(self, frame: FrameType, event: str, argument: Any) -> None:
        """The first event of a thread: watch it, or leave it alone for good."""
        chosen = threading.current_thread().name.startswith(self._thread)
        sys.setprofile(self._profile if chosen else None)
        if chosen:
            self._profile(frame, event, argument)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":  # nobody calls what a weak reference calls when its object goes
            caller: FrameType | None = frame
        elif event == "call" and not frame.f_code.co_filename.startswith((*_OURS, weakref.__file__)):
            caller = frame.f_back
        else:
            return
        if not self.armed or caller is None or not caller.f_code.co_filename.startswith(_OURS):
            return
        if self._only and caller.f_code.co_name not in self._only:
            return
        name = _name(caller, frame, argument)
        if name.endswith(_UNFAILING):
            return
        with self._lock:
            self.calls.append(name)
            due = len(self.calls) == self._at
        if due:
            self.hit = self.calls[-1]
            raise self._failure()


def _name(caller: FrameType, frame: FrameType, argument: Any) -> str:
    what = argument.__qualname__ if isinstance(argument, BuiltinFunctionType) else frame.f_code.co_qualname
    return f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno} {caller.f_code.co_name} -> {what}"
