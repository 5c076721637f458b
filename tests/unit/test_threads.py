"""Threads that begin again, and answers that always arrive."""

import asyncio
import threading
import weakref
from pathlib import Path
from unittest.mock import Mock

import pytest

from service import threads
from service.listening import announce_at
from service.location import Address, Location
from service.threads import DEATHS_MAX, RestartingThread, call_in_loop, in_thread, settle

LIMIT_S = 60


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PAUSE_S", 0.0)


def joined(thread: RestartingThread) -> None:
    """Start it, and wait for its end."""
    thread.start()
    thread._thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "failure", [ValueError("x"), OSError(28, "full"), SystemExit(3), KeyboardInterrupt(), StopIteration()]
)
def test_a_thread_whose_work_raises_whatever_it_is_begins_again(failure: BaseException) -> None:
    """Its owner can answer those that wait before the work goes on."""
    said: list[str] = []

    def work() -> None:
        said.append("work")
        if said.count("work") < 3:
            raise failure

    joined(RestartingThread("t", work, recover=lambda: said.append("recover"), give_up=lambda: said.append("end")))
    assert said == ["work", "recover", "work", "recover", "work"]


def test_a_thread_that_fails_again_and_again_gives_up_once() -> None:
    """The service has to end then, and its owner is told, in the thread itself."""
    said: list[str] = []

    def fail() -> None:
        said.append("work")
        raise ValueError

    joined(RestartingThread("t", fail, give_up=lambda: said.append("end")))
    assert said == ["work"] * DEATHS_MAX + ["end"]


def test_a_recovery_that_fails_is_a_failure_too() -> None:
    """Nothing is worked on meanwhile: what was under way is not answered yet."""
    said: list[str] = []

    def work() -> None:
        said.append("work")
        if said.count("recover") < 3:
            raise ValueError

    def recover() -> None:
        said.append("recover")
        if said.count("recover") < 3:
            raise OSError

    joined(RestartingThread("t", work, recover=recover, give_up=lambda: said.append("end")))
    assert said == ["work", "recover", "recover", "recover", "work"]


def test_failures_that_are_far_apart_are_not_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault a day does not end the service on the fifth day."""
    monkeypatch.setattr(threads, "STEADY_S", -1.0)
    lives = iter(range(3 * DEATHS_MAX))
    said: list[str] = []

    def work() -> None:
        if next(lives, None) is not None:
            raise ValueError

    joined(RestartingThread("t", work, give_up=lambda: said.append("end")))
    assert not said


def test_a_recovery_that_fails_for_long_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the life before it was: it is not one life after the other."""
    monkeypatch.setattr(threads, "STEADY_S", -1.0)
    said: list[str] = []

    def fail() -> None:
        said.append("fail")
        raise ValueError

    joined(RestartingThread("t", fail, recover=fail, give_up=lambda: said.append("end")))
    assert said == ["fail"] * DEATHS_MAX + ["end"]


def test_a_thread_without_a_last_resort_goes_on_however_often_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others can do its work meanwhile."""
    monkeypatch.setattr(threads, "log", Mock())  # thousands of tracebacks
    lives = iter(range(2000))  # beyond where powers of two end

    def work() -> None:
        if next(lives, None) is not None:
            raise ValueError

    joined(RestartingThread("t", work))
    assert next(lives, None) is None


def test_a_process_whose_thread_cannot_even_give_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left to answer: better a connection that closes than one that waits for ever."""
    ended: list[str] = []
    monkeypatch.setattr(threads, "end_process", ended.append)

    def fail() -> None:
        raise ValueError

    joined(RestartingThread("writer", fail, give_up=fail))
    assert ended == ["the thread writer has ended, and its callers cannot be answered"]


def test_a_closed_loop_is_no_failure() -> None:
    """Nobody waits there any more; any other refusal of the loop is one."""
    loop = asyncio.new_event_loop()
    loop.close()
    call_in_loop(loop, lambda: None)
    call_in_loop(None, lambda: None)


def test_an_answer_that_no_future_takes_is_another_one() -> None:
    """StopIteration, which a future refuses: those behind it in the group have to be answered as well."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        taken, refused, cancelled = loop.create_future(), loop.create_future(), loop.create_future()
        cancelled.cancel()
        settle(refused, StopIteration(), otherwise=KeyError())
        settle(cancelled, 1, otherwise=KeyError())
        settle(taken, 1, otherwise=KeyError())
        assert await taken == 1
        with pytest.raises(KeyError):
            await refused
        assert cancelled.cancelled()

    asyncio.run(main())


def test_the_thread_is_a_daemon_of_its_name() -> None:
    """It keeps no process alive, and can be told apart in a dump."""
    found: list[threading.Thread] = []
    joined(RestartingThread("the-name", lambda: found.append(threading.current_thread())))
    assert (found[0].name, found[0].daemon) == ("the-name", True)


def test_work_in_a_thread_that_ends_with_stop_iteration_is_a_failure_and_no_silence() -> None:
    """A future does not take it, so that whoever waits would wait for ever."""

    def stop() -> None:
        raise StopIteration

    async def main() -> None:
        assert await in_thread(lambda: 7) == 7
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(in_thread(stop), LIMIT_S)

    asyncio.run(main())


def test_locals_of_a_failure_are_let_go() -> None:
    """As a statement of SQLite in them: a frame that holds its own error would keep it until the collector comes."""

    class Statement:
        """Something that counts who holds it."""

    def fail() -> None:
        held = Statement()
        found.append(weakref.ref(held))
        try:
            int("none")
        except ValueError as error:
            kept = error  # the circle
            raise OSError from kept

    found: list[weakref.ref[Statement]] = []
    with pytest.raises(OSError) as failure:
        fail()
    assert found[0]() is not None
    threads.forget_locals(failure.value)
    assert found[0]() is None
    assert failure.value.__traceback__ is not None


def test_a_server_whose_address_cannot_be_noted_says_where_it_is_all_the_same(tmp_path: Path) -> None:
    """As on a disk that is full: commands beside it do not find it, its users do."""
    said: list[str] = []
    nowhere = Location(str(tmp_path / "gone" / "ledger.db"), memory=False)
    announce_at(nowhere, Address("http://127.0.0.1:8000", "c"), said.append)
    assert said == ["http://127.0.0.1:8000"]
