"""`make crash`: the long form of all harnesses, with a progress bar, and its report in docs/reliability.md.

Run as `python -m crash.long_form` from the tests folder. Each harness leaves its result in a folder as soon as it has
one, so that they can run one by one, or two at a time, and the report is of all that there are.
"""

import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from crash.bar import progress_bar
from crash.findings import Result
from crash.harnesses import HARNESSES
from support.seeds import new_seed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- report: written by `make crash` -->\n", "<!-- end of the report -->\n"


class Report(msgspec.Struct, frozen=True):
    """A harness's result, and when and on what it was had."""

    result: Result
    day: str
    python: str
    system: str


def _parse_only(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in HARNESSES]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(HARNESSES)}.")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default=",".join(HARNESSES), callback=_parse_only, metavar="NAMES", help="Which harnesses.")
@click.option("--seed", type=int, help="Of all that is left to chance.  [default: a new one, which the report names]")
@click.option("--short", is_flag=True, help="As many as in `make test`.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(tempfile.gettempdir()) / "chatledger-crash",
    help="The folder of the results.  [default: chatledger-crash among the temporary files]",
)
@click.option("--no-report", is_flag=True, help="Leave docs/reliability.md alone.")
def main(*, only: Sequence[str], seed: int | None, short: bool, results: Path, no_report: bool) -> None:
    """Run the harnesses in their long form, and write the report of them all."""
    results.mkdir(parents=True, exist_ok=True)
    chosen = new_seed() if seed is None else seed
    failed = False
    for name in only:
        harness = HARNESSES[name]
        count = harness.short if short else harness.long
        with progress_bar(count, harness.unit, f"{name}, seed {chosen}") as progress:
            result = harness.run(count, chosen, progress)
        click.echo(str(result))
        failed = failed or bool(result.violations)
        report = Report(result, datetime.now(UTC).date().isoformat(), platform.python_version(), platform.platform())
        (results / f"{name.replace(' ', '-')}.json").write_bytes(msgspec.json.encode(report))
    if not no_report:
        write(PAGE, read(results))
    sys.exit(1 if failed else 0)


def read(results: Path) -> list[Report]:
    """The reports in a folder, in the order of the harnesses."""
    files = (results / f"{name.replace(' ', '-')}.json" for name in HARNESSES)
    return [msgspec.json.decode(file.read_bytes(), type=Report) for file in files if file.exists()]


def table(reports: Sequence[Report]) -> str:
    """What they found, in Markdown."""
    rows = ["| harness | what was done | violations | seed | minutes | day |", "|---|---|---:|---:|---:|---|"]
    for report in reports:
        result = report.result
        counts = ", ".join(f"{count:,} {name}" for name, count in result.counts.items() if name != "violations")
        notes = "".join(f"; {note}" for note in result.notes)
        minutes = f"{result.seconds / 60:.1f}"
        found = len(result.violations)
        rows.append(f"| {result.name} | {counts}{notes} | {found} | {result.seed} | {minutes} | {report.day} |")
    systems = sorted({f"Python {report.python} on {report.system}" for report in reports})
    return "\n".join([*rows, "", f"{'; '.join(systems)}, two cores.", ""])


def write(page: Path, reports: Sequence[Report]) -> None:
    """Put the table in its place in *page*."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, behind = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(reports)}\n{END}{behind}")


if __name__ == "__main__":
    main()
