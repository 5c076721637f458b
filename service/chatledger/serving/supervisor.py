"""Several workers on one ledger: this process holds the ledger and the port, starts them, and starts again what dies.

It opens the ledger first and alone, so that it is migrated, its views are caught up and its key is made once. From then
on it has no file of SQLite open. The lock on the ledger ends with the last process that has inherited it
(docs/decisions/0018-workers.md).
"""

import asyncio
import contextlib
import itertools
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import structlog

from chatledger.domain.access import new_local_credential
from chatledger.errors import RefusedToStart, WorkerRefused
from chatledger.http.origins import parse_origins
from chatledger.ledger import event_store
from chatledger.observability import metrics
from chatledger.observability.logs import dropped
from chatledger.observability.metrics import LOG_LINES_DROPPED, Family, Reading
from chatledger.proofs.signed_heads import check_start, signer_of
from chatledger.serving.app import open_views
from chatledger.serving.listener import (
    Announce,
    announce_at,
    check_exposure,
    has_ledger,
    joined,
    kept_address,
    metrics_port,
)
from chatledger.serving.signals import note_signals
from chatledger.serving.tls import check_files, own_certificate
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors
from chatledger.storage.paths import Address, Location, exclusive
from chatledger.workers.protocol import Ask, Channel, Orders, Ready, Refused, Report, Scrape, Scraped, Stop
from chatledger.workers.shared_state import Board
from chatledger.writing.byte_budget import BODY_TIMES
from chatledger.writing.committer import opened

log = structlog.get_logger("chatledger")

WORKER = "chatledger.serving.worker"
"""The module whose `main` a worker runs."""
DEATHS_MAX = 5
"""A worker that has died so many times, each soon behind its start, is not started again: all of them stop."""
STEADY_S = 10.0
"""A worker that has lived so long has started well."""
PAUSE_S = 0.05
"""Before the second start in a row; twice as long before each further one."""
REPORT_TIMEOUT_S = 2.0
"""How long to wait for the workers' metrics; of one that does not answer the last ones stand."""
METRICS_TIMEOUT_S = 2 * REPORT_TIMEOUT_S
"""How long a thread of the metrics port waits for the event loop, which may be about to end."""
END_TIMEOUT_S = 10.0
"""How long a worker may take to close its files behind the last answer; then it is killed, as a crash would."""


def supervise(settings: Settings, *, announce: Announce, new_signing_key: bool = False) -> None:
    """Serve with several workers until SIGTERM or SIGINT; *announce* is called once all accept requests.

    Raises:
        RefusedToStart: the address, the settings or the ledger are not as they must be, or the workers do not live.
    """
    if settings.in_memory:
        raise RefusedToStart("A ledger in memory cannot be shared by several workers; CHATLEDGER_WORKERS has to be 1.")
    check_files(settings)
    parse_origins(settings.cors_origins)
    location = Location.of(settings)
    with kept_address(settings) as (address, port):
        is_there = has_ledger(settings)
        check_exposure(settings, address, is_open=not settings.jwks and not is_there)
        with _prepared(location, settings, address, new_signing_key=new_signing_key) as (board, lock):
            events = board.position if is_there else None
            supervisor = _Supervisor(settings, location, board, lock, address, port)
            asyncio.run(supervisor.run(lambda url: announce(url, events)))


@contextmanager
def _prepared(
    location: Location, settings: Settings, address: str, *, new_signing_key: bool
) -> Iterator[tuple[Board, int]]:
    """Hold the ledger, with all done that is done once: a board for the workers, and the lock's descriptor."""
    with contextlib.ExitStack() as stack:
        with sql_errors.storage_failures_named(location.ledger):
            ledger_file.look(location, settings)
            check_start(location, settings, new_key=new_signing_key)
            location.make_folder()
            lock = stack.enter_context(exclusive(location))
            with opened(location, settings) as committer:
                open_views(committer)
                check_exposure(settings, address, is_open=not settings.jwks and not committer.keys.keys)
                identity, events = event_store.identity(committer.ledger), event_store.head(committer.ledger).position
                signer_of(location, settings, identity, events=events, new_key=new_signing_key)
                generation, position = committer.views.generation, committer.views.position
        if lock is None:
            raise TypeError("only a ledger in memory has no lock")
        yield Board.new(generation=generation, position=position), lock


def shared_out(settings: Settings) -> Settings:
    """The settings of each worker: of what there is a number for the whole service it has its share."""
    count = settings.workers
    return msgspec.structs.replace(
        settings,
        connections_max=-(-settings.connections_max // count),
        queue_commands_max=-(-settings.queue_commands_max // count),
        queue_bytes_max=max(-(-settings.queue_bytes_max // count), BODY_TIMES * settings.body_bytes_max),
        queue_reads_max=-(-settings.queue_reads_max // count),
    )


class _Process:
    """A worker as its supervisor sees it."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.ready = False
        self.refused = ""
        self.families: list[Family] = []
        """What it has reported last."""
        self.asked: dict[int, asyncio.Future[None]] = {}


class _Supervisor:
    def __init__(
        self, settings: Settings, location: Location, board: Board, lock: int, address: str, port: int
    ) -> None:
        self._settings = settings
        self._location = location
        self._board = board
        self._lock = lock
        self._address, self._port = address, port
        self._credential = new_local_credential()
        self._live: dict[int, _Process] = {}
        self._gone: list[Family] = []
        self._questions = itertools.count(1)
        self._stopping = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._scraping: set[asyncio.Task[None]] = set()

    async def run(self, announce: Callable[[str], None]) -> None:
        note_signals()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)

        def families() -> list[Family]:
            return asyncio.run_coroutine_threadsafe(self._reported(), loop).result(METRICS_TIMEOUT_S)

        with metrics_port(self._settings, self._address, metrics.registry_of_families(families)):
            keeping = [asyncio.ensure_future(self._keep(number)) for number in range(1, self._settings.workers + 1)]
            announcing = asyncio.ensure_future(self._announce(announce))
            stopping = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait({*keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (announcing, stopping, *self._scraping):
                task.cancel()
            await self._stop(keeping)
        log.info("stopped")

    async def _announce(self, announce: Callable[[str], None]) -> None:
        await self._all_ready.wait()
        scheme = "https" if self._settings.tls_certificate else "http"
        url = f"{scheme}://{joined(self._address, self._port)}"
        address = Address(url, self._credential, own_certificate(self._settings))
        announce_at(self._location, address, announce)

    async def _stop(self, keeping: list[asyncio.Task[None]]) -> None:
        """Have all workers stop, and raise what one of them could not go on for."""
        log.info("stopping")
        self._stopping.set()
        for worker in self._live.values():
            worker.channel.send(Stop())
        timeout_s = self._settings.shutdown_timeout_ms / 1000 + END_TIMEOUT_S
        await asyncio.wait(keeping, timeout=timeout_s)
        for worker in self._live.values():
            log.warning("worker killed", number=worker.number)
            worker.process.kill()
        for outcome in await asyncio.gather(*keeping, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _keep(self, number: int) -> None:
        """Have the worker *number* live until all are to stop.

        Raises:
            RefusedToStart: it cannot start, or dies again and again.
        """
        deaths = 0
        while not self._stopping.is_set():
            started_s = time.monotonic()
            code, reason = await self._live_once(number)
            if self._stopping.is_set():
                return
            if reason and not self._all_ready.is_set():
                raise WorkerRefused(reason)
            deaths = 1 if time.monotonic() - started_s > STEADY_S else deaths + 1
            log.error("worker died", number=number, code=code, reason=reason or None)
            if deaths == DEATHS_MAX:
                raise RefusedToStart(f"Worker {number} has died {deaths} times in a row; the log above says why.")
            if deaths > 1:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), PAUSE_S * 2 ** (deaths - 2))

    async def _live_once(self, number: int) -> tuple[int | None, str]:
        """One life of a worker: its exit code, and the reason why it could not start, if it could not."""
        try:
            worker = await self._start(number)
        except OSError as error:  # the system has no room for a process
            return None, error.strerror or str(error)
        return await self._attend(worker), worker.refused

    async def _start(self, number: int) -> _Process:
        ours, theirs = socket.socketpair()
        # With our own path, so that a worker finds the modules that this process has found, projections too.
        program = f"import sys; sys.path[:] = {sys.path!r}; from {WORKER} import main; main()"
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                program,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._board.descriptor, self._lock),
            )
        worker = self._live[number] = _Process(number, process, await Channel.over(ours))
        worker.channel.send(
            Orders(
                number=number,
                settings=shared_out(self._settings),
                address=self._address,
                port=self._port,
                board=self._board.descriptor,
                local_credential=self._credential,
            )
        )
        if self._stopping.is_set():
            worker.channel.send(Stop())
        return worker

    async def _attend(self, worker: _Process) -> int:
        """Listen to a worker until it is gone; its exit code."""
        while (said := await worker.channel.report()) is not None:
            if isinstance(said, Ready):
                worker.ready = True
                if len(self._live) == self._settings.workers and all(each.ready for each in self._live.values()):
                    self._all_ready.set()
            elif isinstance(said, Refused):
                worker.refused = said.reason
            elif isinstance(said, Report):
                worker.families = said.families
                if (asked := worker.asked.pop(said.number, None)) is not None and not asked.done():
                    asked.set_result(None)
            elif isinstance(said, Scrape):
                task = asyncio.ensure_future(self._answer(worker))
                self._scraping.add(task)
                task.add_done_callback(self._scraping.discard)
        code = await worker.process.wait()
        worker.channel.close()
        self._gone = metrics.together([self._gone, metrics.counting(worker.families)])
        del self._live[worker.number]
        return code

    async def _answer(self, worker: _Process) -> None:
        families = await self._reported()
        text = metrics.render(metrics.registry_of_families(lambda: families))
        worker.channel.send(Scraped(text.decode()))

    async def _reported(self) -> list[Family]:
        """The metrics of all workers together, those that are gone too."""
        number, loop = next(self._questions), asyncio.get_running_loop()
        asked = [worker for worker in self._live.values() if worker.ready]
        for worker in asked:
            worker.asked[number] = loop.create_future()
            worker.channel.send(Ask(number))
        if asked:
            await asyncio.wait([worker.asked[number] for worker in asked], timeout=REPORT_TIMEOUT_S)
        for worker in asked:
            worker.asked.pop(number, None)
        own = metrics.family_of(Reading("log_lines_dropped_total", LOG_LINES_DROPPED, dropped(), counts=True))
        return metrics.together([self._gone, *(worker.families for worker in self._live.values()), [own]])
