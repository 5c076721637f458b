"""Signals that must not end a server: SIGTERM and SIGINT stop it in order, and nothing else does but SIGKILL."""

import asyncio
import signal

import structlog

log = structlog.get_logger("chatledger")

IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""A terminal that is closed, a connection that drops, and what other servers take for an order to reopen their logs."""


def hold_signals() -> None:
    """Have the signals of `IGNORED` pass, until there is an event loop; and SIGPIPE always: a write says EPIPE."""
    for number in (*IGNORED, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def note_signals() -> None:
    """From here on have the running event loop write a log line for each of `IGNORED`."""
    loop = asyncio.get_running_loop()
    for number in IGNORED:
        loop.add_signal_handler(number, _note, number)


def _note(number: signal.Signals) -> None:
    log.warning("signal ignored", signal=number.name)
