"""Building the views anew while serving: beside the live ones, which then give way between two groups.

The rebuild has a thread and connections of its own; the ledger is only read. The writer's thread does no more than the
last bit of catching up and the swap, some milliseconds: the file is synced before, and the old one is closed and
removed after (docs/decisions/0004-views-in-generations.md).
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import msgspec
import structlog

from chatledger.errors import ChatledgerError, Overloaded, RebuildRunning, RefusedToStart
from chatledger.ledger import event_store
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors, wal
from chatledger.storage.connection import Connection, open_reader
from chatledger.storage.paths import Location, remove
from chatledger.threads import RestartingThread
from chatledger.views.builder import ASIDE, Builder
from chatledger.views.live_views import Views
from chatledger.workers.shared_state import Board

log = structlog.get_logger("chatledger.rebuilder")

STOP_WAIT_S = 5.0
"""How long a stop waits for the thread. Only a sync of the whole file takes longer, and what it leaves behind is
removed at the next start."""
WATCH_S = 0.02
"""How often, where there are several workers, one that rebuilds tells the others how far it is and hears from them."""
CLAIM_S = 0.5
"""How long to wait for another worker that has claimed the rebuild and shows none."""
NICENESS = 10
"""The rebuild gives way to requests where there are too few cores for both (sched(7)): with two cores appends keep 0.73
of their speed, and 0.51 without; with 19 it may wait for a processor while it holds the interpreter lock."""


class RebuildUnsound(ChatledgerError):
    """The new views did not pass their check."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The new views cannot be used: {reason}.")


class RebuildProgress(msgspec.Struct, frozen=True):
    """How far a rebuild is. When all its events are done, the file is still indexed, synced and checked."""

    generation: int
    events_done: int
    events_total: int
    events_per_second: float
    seconds_left: float | None


class _Job:
    """One rebuild. All but `swapping` is written by one thread only."""

    def __init__(self, name: str, generation: int, builder: Builder, events_total: int) -> None:
        self.name = name
        self.generation = generation
        self.builder = builder
        self.done, self.total = 0, events_total
        self.started_s = time.monotonic()
        self.number = 0  # among all workers' rebuilds
        self.built = False
        self.swapping = False
        self.swapped = False
        self.error: Exception | None = None
        self.settled = threading.Event()  # swapped in, or it never will be

    def note(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def progress(self) -> RebuildProgress:
        return _progress(self.generation, self.done, self.total, self.started_s)


def _progress(generation: int, done: int, total: int, started_s: float) -> RebuildProgress:
    speed = done / max(time.monotonic() - started_s, 1e-3)
    left_s = round((total - done) / speed, 1) if speed else None
    return RebuildProgress(generation, done, total, round(speed, 1), left_s)


class Rebuilder:
    """At most one rebuild at a time, in whichever worker. Callable from any thread, but for `swap`."""

    def __init__(self, location: Location, settings: Settings, views: Views, board: Board | None = None) -> None:
        self._board = board
        self._location = location
        self._settings = settings
        self._views = views
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._holders = 0

    @property
    def progress(self) -> RebuildProgress | None:
        """Of the rebuild that is under way, or None."""
        job = self._job
        if job is not None or self._board is None:
            return None if job is None else job.progress()
        found = self._board.rebuild
        return None if found is None else _progress(*msgspec.structs.astuple(found))

    def start(self, on_built: Callable[[], None]) -> RebuildProgress:
        """Begin one. Once it is built, *on_built* is called, to have the writer's thread call `swap`.

        Raises:
            RebuildRunning: one is under way.
            Overloaded: the service is stopping, or just now none may begin.
        """
        with self._lock:
            if self._closed:
                raise Overloaded("The service is stopping.")
            if self._holders:
                raise Overloaded("The files are being opened anew.")
            if self._job is not None:
                raise RebuildRunning
            self._job = job = self._claim()
            try:
                self._thread = threading.Thread(target=self._run, args=(job, on_built), name="rebuild", daemon=True)
                self._thread.start()
            except BaseException as error:
                self._forget(job)
                if isinstance(error, RuntimeError):  # the system has no room for a thread
                    raise Overloaded("The rebuild cannot be started.", retry_after_s=5) from error
                raise
        return job.progress()

    def _claim(self) -> _Job:
        """The rebuild that is begun now; in the name of all workers, where there are several."""
        live = self._views if self._board is None else self._board
        if self._board is not None:
            self._claim_from(self._board)
        try:
            generation = live.generation + 1
            name = self._views.beside(generation)
            builder = Builder(name, self._location, self._settings, self._views.projections)
            job = _Job(name, generation, builder, live.position)
            if self._board is not None:
                job.number = self._board.show_rebuild(generation)
        except BaseException:
            if self._board is not None:
                self._board.release_rebuild()
            raise
        return job

    def _claim_from(self, board: Board) -> None:
        until_s = time.monotonic() + CLAIM_S
        while not board.claim_rebuild():
            if board.rebuild is not None or time.monotonic() > until_s:
                raise RebuildRunning
            time.sleep(CLAIM_S / 1000)  # somebody makes sure that none runs, which takes a moment

    def cancel(self) -> None:
        """Stop the rebuild that is under way, if there is one, and remove its file; the live views stay.

        One that is being swapped in just now is not stopped any more.
        """
        with self.held():
            pass

    @contextmanager
    def held(self) -> Iterator[None]:
        """As `cancel`, and for the block nobody begins another one: for who removes or replaces what a rebuild has."""
        with self._lock:
            self._holders += 1
        board, claimed = self._board, False
        try:
            self._cancel_here()
            claimed = board is not None and self._cancel_elsewhere(board)
            yield
        finally:
            with self._lock:
                self._holders -= 1
            if board is not None and claimed:
                board.release_rebuild()

    def _cancel_here(self) -> None:
        with self._lock:
            job, thread = self._job, self._thread
            if job is None or thread is None:
                return
            if not job.swapping:
                job.builder.stop()
                job.settled.set()
        thread.join(STOP_WAIT_S)

    def _cancel_elsewhere(self, board: Board) -> bool:
        """Ask whichever worker rebuilds to stop, and wait until it has; one that has died has stopped.

        Returns:
            Whether it has, and nobody rebuilds until the caller releases what is claimed now.
        """
        until_s, pause = time.monotonic() + STOP_WAIT_S, threading.Event()
        while not board.claim_rebuild():
            board.cancel_rebuild()
            if time.monotonic() > until_s:
                return False
            pause.wait(WATCH_S / 4)
        return True

    def _watch(self, job: _Job, board: Board) -> None:
        """Tell the other workers how far *job* is, and stop it when one of them asks."""
        while not job.settled.wait(WATCH_S) and self._job is job:
            board.note_rebuild(job.done, job.total)
            if board.is_cancelled(job.number):
                with self._lock:
                    if not job.swapping:
                        job.builder.stop()
                        job.settled.set()

    def close(self) -> None:
        """Cancel, and begin no other."""
        with self._lock:
            self._closed = True
        self._cancel_here()

    def swap(self, ledger_db: Connection) -> None:
        """Put what was built in the place of the live views. For the writer's thread, between two groups."""
        with self._lock:
            job = self._job
            if job is None or not job.built or job.settled.is_set():
                return
            job.swapping = True
        try:
            started_s = time.monotonic()
            if self._location.memory:
                self._views.rebuild(ledger_db, job.note)
            else:
                self._views.take_over(ledger_db, job.name, job.generation)
            job.swapped = True
            log.info("views swapped", generation=job.generation, ms=round((time.monotonic() - started_s) * 1000, 3))
        except Exception as error:  # noqa: BLE001  # the thread of the rebuild reports it; the writer's has to live on
            job.error = error
        finally:
            job.swapping = False
            job.settled.set()

    def _run(self, job: _Job, on_built: Callable[[], None]) -> None:
        try:
            self._rebuild(job, on_built)
        except BaseException:
            if job.builder.stopped:
                log.warning("rebuild cancelled", generation=job.generation)
            else:
                log.exception("rebuild failed", generation=job.generation)
        finally:
            self._finish(job)

    def _rebuild(self, job: _Job, on_built: Callable[[], None]) -> None:
        board = self._board
        if board is not None:
            RestartingThread("rebuild-watch", lambda: self._watch(job, board)).start()
        _give_way()
        log.info("rebuild started", generation=job.generation, events=job.total)
        if not self._location.memory:
            self._build(job)
        self._hand_over(job, on_built)

    def _finish(self, job: _Job) -> None:
        """Let everybody go on, whatever of it fails: a rebuild that seems to run for ever keeps out all others."""
        try:
            if not self._location.memory:
                self._remove(job)
        finally:
            try:
                job.settled.set()
            finally:
                with self._lock:
                    self._forget(job)

    def _forget(self, job: _Job) -> None:
        """The rebuild *job* is over; the caller has the lock."""
        if self._job is job:
            self._job = None
            if self._board is not None:
                self._board.release_rebuild()

    def _remove(self, job: _Job) -> None:
        """Remove what is left. If the disk does not let us, the next rebuild or start does: others may be begun."""
        try:
            remove(job.name)
            remove(job.name + ASIDE)
        except OSError:
            log.warning("rebuild not removed", generation=job.generation, exc_info=True)

    def _build(self, job: _Job) -> None:
        """Fill the file, check it, catch up, and have it on the disk and closed."""
        with (
            closing(ledger_file.open_ledger_reader(self._location, self._settings)) as ledger_db,
            closing(job.builder.build(ledger_db, job.note)) as db,
        ):
            reason = self._views.distrust(db, schema="main", name=job.name)
            if reason is not None:
                raise RebuildUnsound(reason)
            job.note(job.builder.follow(db, ledger_db, job.note), event_store.head(ledger_db).position)
            wal.checkpoint(db)

    def _hand_over(self, job: _Job, on_built: Callable[[], None]) -> None:
        with ExitStack() as stack:
            if not self._location.memory:
                # Whoever closes the old file last copies its write-ahead log back: that shall not be the writer.
                with suppress(RefusedToStart, sql_errors.SQLError):
                    old = open_reader(self._location.views(job.generation - 1), self._location, self._settings)
                    stack.callback(old.close)
            job.built = True
            on_built()
            job.settled.wait()
        if job.error is not None:
            raise job.error
        if job.swapped:
            self._views.discard_older()
            seconds = round(time.monotonic() - job.started_s, 3)
            log.info("views rebuilt", reason="asked for", generation=job.generation, seconds=seconds)
        else:
            log.warning("rebuild cancelled", generation=job.generation)


def _give_way() -> None:
    """Let the calling thread, and those that it starts, have less of the processor than the others."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own by this call
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
