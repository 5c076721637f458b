import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures, report
from benchmarks.figures import Figure

TESTS = Path(__file__).parents[1]
FIGURE = re.compile(
    r"^\| (?P<name>[^|]+) \| (?P<median>[0-9.,e+]+) \| (?P<spread>[^|]*) \| [^|]+ \| (?P<bar>[^|]*) \|$"
)


@pytest.mark.slow
def test_a_quick_run_writes_a_table_of_figures_above_zero(tmp_path: Path) -> None:
    """Append and rebuild are measured and written to the folder that was named; how fast is no matter here."""
    output, work = tmp_path / "output", tmp_path / "work"
    output.mkdir()
    work.mkdir()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "append,rebuild"]
    subprocess.run(
        [*command, "--output", str(output), "--folder", str(work)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        check=True,
        timeout=300,
    )
    rows = list(filter(None, map(FIGURE.match, (output / "benchmarks.md").read_text().splitlines())))
    assert {"append", "sessions and messages"} <= {row["name"] for row in rows}
    assert all(float(row["median"].replace(",", "")) > 0 for row in rows)
    assert any(row["bar"].startswith(("PASS", "FAIL")) for row in rows)
    assert not list(work.iterdir()), "the temporary folder is gone"


def test_a_bar_is_passed_by_the_median() -> None:
    """One round below the bar does not fail it; a median below does."""
    fast = Figure(section="s", name="n", unit="u", values=[1, 5, 6], bar=5)
    slow = Figure(section="s", name="n", unit="u", values=[1, 4, 6], bar=5)
    assert fast.cells() == ("n", "5", "1 … 6", "u", "PASS (≥ 5)")
    assert slow.cells()[-1] == "FAIL (≥ 5)"


def test_ratios_are_taken_round_by_round() -> None:
    """A slow round of both is no slow ratio."""
    assert figures.ratios([1, 10], [2, 20]) == [0.5, 0.5]


def test_the_readme_is_filled_between_its_markers_only(tmp_path: Path) -> None:
    """What stood there before goes, what is around it stays; without markers nothing is changed."""
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- bench:start -->\nold\n<!-- bench:end -->\nbelow\n")
    assert report.fill_readme(readme, "new\n")
    assert readme.read_text() == "above\n<!-- bench:start -->\nnew\n<!-- bench:end -->\nbelow\n"
    readme.write_text("nothing to fill\n")
    assert not report.fill_readme(readme, "new\n")
    assert readme.read_text() == "nothing to fill\n"
