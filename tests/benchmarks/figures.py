"""A measured figure, and tables of them for the terminal and for Markdown."""

import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

import msgspec

_BIG = 100
"""From here on a figure is shown without decimals."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table: what was measured, once a round.

    `bar` is the least median that passes, `at_most` the greatest. What could not be measured has no values but a
    reason, `missing`: it is shown, and fails nothing.
    """

    section: str
    name: str
    unit: str
    values: Sequence[float] = ()
    bar: float | None = None
    at_most: float | None = None
    missing: str = ""

    @property
    def median(self) -> float:
        """The middle one of the rounds."""
        return statistics.median(self.values)

    @property
    def passes(self) -> bool:
        """Whether there is no bar that the median misses."""
        if self.missing:
            return True
        return (self.bar is None or self.median >= self.bar) and (self.at_most is None or self.median <= self.at_most)

    def cells(self) -> tuple[str, str, str, str, str]:
        """What the table shows: name, median, range, unit and bar."""
        if self.missing:
            return self.name, "not measured", "", self.unit, self.missing
        bars = [f"{sign} {shown(bar)}" for sign, bar in (("≥", self.bar), ("≤", self.at_most)) if bar is not None]
        bar = f"{'PASS' if self.passes else 'FAIL'} ({', '.join(bars)})" if bars else ""
        spread = f"{shown(min(self.values))} … {shown(max(self.values))}" if len(self.values) > 1 else ""
        return self.name, shown(self.median), spread, self.unit, bar


HEADINGS = ("what", "median", "min … max", "unit", "bar")


def shown(value: float) -> str:
    """*value* with as many digits as are worth reading."""
    return f"{value:,.0f}" if abs(value) >= _BIG else f"{value:.3g}"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round: neighbours in time, so that what else the machine does weighs on both alike."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def as_text(figures: Iterable[Figure]) -> str:
    """All sections as aligned columns."""
    rows = [(figure.section, figure.cells()) for figure in figures]
    widths = [max(len(cells[n]) for cells in [HEADINGS, *(row for _, row in rows)]) for n in range(5)]

    def line(cells: Sequence[str]) -> str:
        name, median, spread, unit, bar = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        right = (median.strip().rjust(widths[1]), spread.strip().rjust(widths[2]))
        return "  ".join((name, *right, unit, bar)).rstrip()

    lines = [line(HEADINGS)]
    for section, members in groupby(rows, key=lambda row: row[0]):
        lines += ["", section, "-" * len(section), *(line(cells) for _, cells in members)]
    return "\n".join(lines)


def as_markdown(figures: Iterable[Figure], *, level: int = 3) -> str:
    """A table for each section."""
    parts = []
    for section, members in groupby(figures, key=attrgetter("section")):
        parts.append(f"{'#' * level} {section}\n\n{markdown_table(figure.cells() for figure in members)}")
    return "\n\n".join(parts)


def markdown_table(rows: Iterable[Sequence[str]], headings: Sequence[str] = HEADINGS) -> str:
    """A table whose second and third columns are numbers."""
    rule = ["---:" if heading in ("median", "min … max") else "---" for heading in headings]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [headings, rule, *rows])
