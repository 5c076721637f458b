"""Progress: a bar on a terminal, a plain line now and then elsewhere; always on standard error."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import click
from tqdm import tqdm

LINE_INTERVAL_S = 5.0


class Progress:
    """Shows how far a long command is: done, of how many, how many a second, how long still.

    Use it as a context manager; `update` may be called as often as one likes.
    """

    def __init__(self, what: str, *, unit: str, total: int | None = None, bytes_: bool = False) -> None:
        self._what = what
        self._unit = unit
        self._total = total
        self._done = 0
        self._bytes = bytes_
        self._started_s = time.monotonic()
        self._said_s = self._started_s
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=self._what,
                total=self._total,
                unit="B" if self._bytes else f" {self._unit}",
                unit_scale=self._bytes,  # things are counted in whole numbers
                file=sys.stderr,
            )
        return self

    def update(self, done: int, total: int | None = None) -> None:
        """Say that *done* of *total* is done."""
        self._done = done
        self._total = self._total if total is None else total
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said_s >= LINE_INTERVAL_S:
            self._said_s = time.monotonic()
            click.echo(self._line(), err=True)

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._started_s, 1e-9)
        rate = self._done / seconds
        line = f"{self._what}: {self._done:,}"
        if self._total:
            line += f" of {self._total:,} {self._unit} ({100 * self._done / self._total:.0f} %)"
            left_s = (self._total - self._done) / rate if rate else 0.0
            return f"{line}, {rate:,.0f}/s, {left_s:.0f} s left"
        return f"{line} {self._unit}, {rate:,.0f}/s"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done or kind is None:  # of what was refused there is no progress to tell
            click.echo(self._line(), err=True)


def late_progress(stack: ExitStack, what: str, *, unit: str) -> Callable[[int, int], None]:
    """Progress that is shown from its first call on, and until *stack* ends: of work that is often not needed."""
    progress: Progress | None = None

    def update(done: int, total: int) -> None:
        nonlocal progress
        if progress is None:
            progress = stack.enter_context(Progress(what, unit=unit))
        progress.update(done, total)

    return update
