"""Copying the write-ahead logs back into their databases, beside the writer instead of in its way.

SQLite's own automatic checkpoint runs inside the commit that passes its limit: one append in a few thousand then waits
for megabytes to be written and synced (the p99 was 40 ms, and a fifth of the writer's time). Here another thread copies
most of the log with a connection of its own; what came in meanwhile is little, and the writer copies that itself,
between two groups, so that the log begins anew (https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
"""

import threading
import time
from contextlib import closing

import structlog

from chatledger.errors import RefusedToStart
from chatledger.settings import Settings
from chatledger.storage import sql_errors, wal
from chatledger.storage.connection import Connection, open_to_checkpoint
from chatledger.storage.paths import Location
from chatledger.threads import RestartingThread
from chatledger.views.live_views import Views

log = structlog.get_logger("chatledger.checkpointer")

PASSES = 3
"""Each pass copies what came in during the one before it, which is less each time."""
PASSES_FOR_ERASURE = 1
"""Somebody waits for it, and each pass syncs both files; the little that is left is copied by the writer."""
OVERDUE = 4
"""At so many times the limit the writer waits for the copy: the logs stay bounded whatever the disk does.

A log that is longer than that behind a copy is held: somebody reads it, and so long it grows by all that is written.
"""
LOOK_AGAIN_S = 1.0
"""How soon, while a log is held, the next group has it looked at again, whatever was written."""
_FILES = {"main": "ledger", "views": "views"}


class Checkpointer:
    """One thread that copies when it is told to."""

    def __init__(self, location: Location, settings: Settings, views: Views) -> None:
        self._location = location
        self._settings = settings
        # Each of several workers counts what it writes itself.
        self._pages_max = max(1, settings.wal_checkpoint_pages // settings.workers)
        self._views = views
        self._wake = threading.Event()
        self._copied = threading.Event()
        self._wanted = False
        self._asked = 0  # by the writer's thread: how often it wanted the logs copied at once
        self._answered = 0  # by this one: up to which
        self._busy = False
        self._stopping = threading.Event()
        self._counted: Connection | None = None
        self._pages_before = 0
        self._looked_s = 0.0
        self._warned_pages: dict[str, int] = {}
        self.held_pages = 0
        """The length of the longest log that is held, in pages; 0 as a rule. Written by one thread, read by any."""
        self._thread = RestartingThread("checkpointer", self._run, recover=self._recover)

    def start(self) -> None:
        """Start the thread."""
        if not self._location.memory:
            self._thread.start()

    def close(self) -> None:
        """End the thread, after the copy that is under way."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def after_group(self, db: Connection) -> None:
        """Look at what has been written since the logs began; called by the writer between two groups.

        What fails here is logged: the group is committed, and the copy is tried again behind one of the next.
        """
        if self._location.memory:
            return
        try:
            self._look_at(db)
        except Exception:
            log.exception("checkpoint failed")

    def _look_at(self, db: Connection) -> None:
        if db is not self._counted:
            wal.disable_autocheckpoint(db)
            self._counted, self._pages_before = db, wal.pages_written(db)
        pages = wal.pages_written(db) - self._pages_before
        if self._copied.is_set():
            self._copied.clear()
            self._busy = False
            self._finish(db)
        elif pages > OVERDUE * self._pages_max:
            log.warning("checkpoint overdue", pages=pages)
            self._finish(db)
        elif not self._busy and (pages > self._pages_max or self._is_due()):
            self._wake.set()
            self._busy = True

    def copy_beside(self) -> bool:
        """Have the logs copied back at once; True when the copy that the last calls asked for is done.

        Called by the writer again and again, until it is True.
        """
        if self._location.memory:
            return True
        if self._wanted and self._answered >= self._asked:
            self._wanted = False
            return True
        if not self._wanted:
            self._wanted = True
            self._asked += 1
            self._wake.set()
        return False

    def _recover(self) -> None:
        """Nobody is left waiting for a copy that has failed."""
        self._answered = self._asked
        self._copied.set()

    def _is_due(self) -> bool:
        return bool(self.held_pages) and time.monotonic() > self._looked_s + LOOK_AGAIN_S

    def _finish(self, db: Connection) -> None:
        """Copy the rest; the next commit then begins at the logs' start, if no reader needs them."""
        try:
            self.held_pages = max(self._look(name, wal.checkpoint_passive(db, name)) for name in self._files_written())
        except sql_errors.Busy:
            if self._settings.workers == 1:
                raise
            # Another worker copies just now.
        self._looked_s = time.monotonic()
        self._pages_before = wal.pages_written(db)

    def _files_written(self) -> dict[str, str]:
        """The files whose logs grow, by their schemas' names: views that are left behind are closed meanwhile."""
        files = {"main": self._location.ledger}
        if self._views.live:
            files["views"] = self._views.name
        return files

    def _look(self, schema: str, pages: int) -> int:
        """Warn of a log that is held, once and each time that it has doubled since; its pages, if it is."""
        if pages <= OVERDUE * self._settings.wal_checkpoint_pages:
            if self._warned_pages.pop(schema, 0):
                log.info("write-ahead log released", file=_FILES[schema])
            return 0
        if pages >= 2 * self._warned_pages.get(schema, 0):
            self._warned_pages[schema] = pages
            log.warning("write-ahead log held", file=_FILES[schema], pages=pages)
        return pages

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._stopping.is_set():
                return
            asked = self._asked
            try:
                passes = PASSES_FOR_ERASURE if asked > self._answered else PASSES
                for name in self._files_written().values():
                    with closing(open_to_checkpoint(name, self._location, self._settings)) as connection:
                        for _ in range(passes):
                            wal.checkpoint_passive(connection, "main")
            except sql_errors.Busy:
                pass  # another worker copies just now
            except (sql_errors.SQLError, RefusedToStart):
                # The views may have been replaced just now; and what fails here fails in the writer's own copy too.
                log.warning("checkpoint failed", exc_info=True)
            self._answered = asked
            self._copied.set()
