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
    text = _run("append,rebuild", output, work)
    rows = list(filter(None, map(FIGURE.match, text.splitlines())))
    assert {"append", "sessions and messages"} <= {row["name"] for row in rows}
    assert all(float(row["median"].replace(",", "")) > 0 for row in rows)
    assert any(row["bar"].startswith(("PASS", "FAIL")) for row in rows)
    assert not list(work.iterdir()), "the temporary folder is gone"


def _run(parts: str, output: Path, work: Path, *options: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", parts, *options]
    subprocess.run(
        [*command, "--output", str(output), "--folder", str(work)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        check=True,
        timeout=300,
    )
    return (output / "benchmarks.md").read_text()


@pytest.mark.slow
def test_peers_that_are_not_installed_are_named_with_the_reason(tmp_path: Path) -> None:
    """Ours is measured all the same, and nothing is fetched; the large ledger's part runs on a small one."""
    folders = [tmp_path / name for name in ("output", "work", "peers")]
    for folder in folders:
        folder.mkdir()
    output, work, peers = folders
    text = _run("peers,large", output, work, "--peers", str(peers), "--large-events", "20000")
    rows = {row["name"]: row for row in filter(None, map(FIGURE.match, text.splitlines()))}
    assert {"append: chatledger", "session with 50 messages: chatledger"} <= set(rows)
    assert rows["page, 1 connection: latency p50: large ÷ small"]["bar"].endswith("(≤ 1.3)")
    missing = re.findall(r"^\| ([^|]+) \| not measured \|  \| ratio \| .*installed.* \|$", text, re.MULTILINE)
    assert {"append ÷ the store it replaces", "import ÷ batches of 1,000: umadb"} <= set(missing)
    assert re.search(r"^\| umadb \| not installed", text, re.MULTILINE)
    assert not list(work.iterdir()), "the temporary folder is gone"


def test_a_bar_is_passed_by_the_median() -> None:
    """One round below the bar does not fail it; a median below does."""
    fast = Figure(section="s", name="n", unit="u", values=[1, 5, 6], bar=5)
    slow = Figure(section="s", name="n", unit="u", values=[1, 4, 6], bar=5)
    assert fast.cells() == ("n", "5", "1 … 6", "u", "PASS (≥ 5)")
    assert slow.cells()[-1] == "FAIL (≥ 5)"


def test_a_bar_may_be_a_greatest_median() -> None:
    """At the bar passes, above it fails."""
    least = Figure(section="s", name="n", unit="u", values=[1, 5, 9], at_most=5)
    great = Figure(section="s", name="n", unit="u", values=[1, 6, 9], at_most=5)
    assert (least.passes, least.cells()[-1]) == (True, "PASS (≤ 5)")
    assert (great.passes, great.cells()[-1]) == (False, "FAIL (≤ 5)")


def test_what_could_not_be_measured_says_why() -> None:
    """It has no number, and fails nothing."""
    figure = Figure(section="s", name="n", unit="u", bar=5, missing="no such program")
    assert figure.passes
    assert figure.cells() == ("n", "not measured", "", "u", "no such program")


def test_the_summary_leaves_out_what_was_not_measured() -> None:
    """A README without peers has the other rows."""
    where = [(name, "x") for name in ("processors", "file system", "date")]
    measured = Figure(section="Reads", name="page of 50 messages", unit="u", values=[7])
    absent = Figure(
        section="Beside peers over HTTP", name="append ÷ the store it replaces", unit="ratio", missing="no npm"
    )
    assert "replaces" not in report.summary(where, [measured, absent])
    assert "| Reads: page of 50 messages | 7 |" in report.summary(where, [measured, absent])


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
