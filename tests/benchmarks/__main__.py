"""The command: `python -m benchmarks` from the tests folder, or `python tests/benchmarks/__main__.py`."""

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import click
import msgspec

if not __package__:  # run by its path: this folder's modules are found by their package's name only
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import (
    append,
    beside,
    credentials,
    evidence,
    large,
    machine,
    reads,
    rebuild,
    report,
    sizes,
    stalls,
    writes,
)
from benchmarks.bench import FULL, QUICK, Bench
from benchmarks.figures import Figure, as_text
from benchmarks.generate import OPEN_SESSIONS
from benchmarks.generator import Generator
from benchmarks.peers import measure as peers
from benchmarks.peers.install import CACHE, Peers

ROOT = Path(__file__).parents[2]
PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "append": append.run,
    "credentials": credentials.run,
    "rebuild": rebuild.run,
    "beside": beside.run,
    "evidence": evidence.run,
    "writes": writes.run,
    "reads": reads.run,
    "sizes": sizes.run,
    "peers": peers.run,
}
EXTRA: dict[str, Callable[[Bench], Iterator[Figure]]] = {"large": large.run, "stalls": stalls.run}
"""Parts that run only where they are asked for: they take much time and disk."""


def _parse_parts(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in PARTS | EXTRA]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(PARTS | EXTRA)}.")
    return [name for name in PARTS | EXTRA if name in names]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Short rounds: to see that it runs, not to learn how fast.")
@click.option(
    "--only",
    default=",".join(PARTS),
    callback=_parse_parts,
    metavar="PARTS",
    help=f"Which parts, separated by commas: also {', '.join(EXTRA)}.  [default: all others: {', '.join(PARTS)}]",
)
@click.option(
    "--generator",
    type=click.Choice([each.value for each in Generator]),
    help="What makes the HTTP load.  [default: wrk, where it is installed]",
)
@click.option(
    "--events",
    type=click.IntRange(min=20_000),
    help="How many events the ledger has that is rebuilt, proven and appended to beside a rebuild.  "
    f"[default: {FULL.ledger_events:,}; quick: {QUICK.ledger_events:,}]",
)
@click.option(
    "--large-events",
    type=click.IntRange(min=20_000),
    help=f"How many events the ledger of the part `large` has.  [default: {FULL.large_events:,}; "
    f"quick: {QUICK.large_events:,}]",
)
@click.option(
    "--peers",
    "peers_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where `python -m benchmarks.peers.install` put the peers.  [default: its own folder]",
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to make the temporary files: on the disk to be measured.  [default: the system's place for them]",
)
@click.option(
    "--output",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Write benchmarks.md here, and leave the project's documents alone.  [default: a whole run that is not "
    "quick, of the usual size, writes docs/benchmarks.md and fills the README's section]",
)
@click.option("--strict", is_flag=True, help="Exit with 1 if a bar is missed.")
def main(
    *,
    quick: bool,
    only: list[str],
    generator: str | None,
    events: int | None,
    large_events: int | None,
    peers_folder: Path | None,
    folder: Path | None,
    output: Path | None,
    strict: bool,
) -> None:
    """Measure chatledger, and print a table."""
    signal.signal(signal.SIGTERM, _stop)
    scale = QUICK if quick else FULL
    if events is not None:
        scale = msgspec.structs.replace(scale, ledger_events=events)
    if large_events is not None:
        scale = msgspec.structs.replace(scale, large_events=large_events)
    chosen = Generator.best() if generator is None else Generator(generator)
    with tempfile.TemporaryDirectory(prefix="chatledger-bench-", dir=folder) as name:
        described = machine.describe(Path(name), chosen)
        if machine.filesystem(Path(name)) in machine.MEMORY_FILESYSTEMS:
            _say("the temporary folder is in memory, where a sync costs nothing: choose another with --folder")
        bench = Bench(Path(name), scale, chosen, _say, peers=Peers(peers_folder or CACHE))
        figures = [figure for part in only for figure in (PARTS | EXTRA)[part](bench)]
    click.echo(as_text(figures))
    benchmarks = ROOT / "docs" / "benchmarks.md"
    document = report.document(
        described,
        figures,
        peers.described(bench) if "peers" in only else [],
        before=benchmarks.read_text() if benchmarks.exists() else "",
        connections=scale.connections,
        sessions=scale.sessions,
        events=f"{scale.ledger_events:,}",
        open_sessions=OPEN_SESSIONS,
        store_s=scale.store_s,
    )
    if output is not None:
        (output / "benchmarks.md").write_text(document)
    elif scale == FULL and only == list(PARTS):
        benchmarks.write_text(document)
        report.fill_readme(ROOT / "README.md", report.summary(described, figures))
    elif scale == FULL and set(only) <= set(EXTRA):
        report.fill_large(benchmarks, described, figures)
    if strict and not all(figure.passes for figure in figures):
        sys.exit(1)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _stop(number: int, _frame: object) -> NoReturn:
    """End through the `with` blocks, so that servers and temporary files go too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
