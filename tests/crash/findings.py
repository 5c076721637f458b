"""What a harness found: counts of what it did, and each violation in words."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
VIOLATIONS_KEPT = 20


def quiet(done: int, total: int) -> None:
    """Progress that nobody is shown."""
    del done, total


@dataclass(frozen=True)
class Result:
    """One harness's run: it can be had again with the same seed, as far as chance is ours."""

    name: str
    seed: int
    counts: dict[str, int]
    violations: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For a person, and behind a failed assertion."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        lines = [f"{self.name}: seed {self.seed}, {counts}, {self.seconds:.1f} s", *self.notes, *self.violations]
        return "\n  ".join(lines)


@dataclass
class Findings:
    """The same while it is being found."""

    name: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _began_s: float = field(default_factory=monotonic)

    def violation(self, what: str) -> None:
        """Note a broken promise; of many the first ones."""
        self.counts["violations"] += 1
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(what[:1000])

    @contextmanager
    def checking(self, what: str) -> Iterator[None]:
        """An assertion that fails in the block is a violation, and *what* tells where it was."""
        try:
            yield
        except AssertionError as error:
            self.violation(f"{what}: {error}")

    def result(self) -> Result:
        """What was found so far."""
        return Result(
            self.name,
            self.seed,
            dict(self.counts),
            tuple(self.violations),
            monotonic() - self._began_s,
            tuple(self.notes),
        )


def assert_clean(result: Result) -> None:
    """Nothing was violated; else the result, with its seed, is the message."""
    print(result)  # noqa: T201  # pytest shows it beside a failure
    assert not result.violations, str(result)


def assert_caught(result: Result) -> None:
    """A bug that was put in was found."""
    print(result)  # noqa: T201
    assert result.violations, f"the bug was not found: {result}"
