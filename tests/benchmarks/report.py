"""The written report: docs/benchmarks.md, and a summary in the README."""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, as_markdown, markdown_table

_INTRODUCTION = """# Benchmarks

Written by `make bench`; do not edit. Runs on another machine, or on this one on another day, give other figures:
look at the ratios first.

## How to read it

- A row is the median of its rounds, with the least and the greatest beside it. What a ratio compares was measured
  in turn, round by round, and the ratio was taken within each round.
- **Append**: {connections} connections each send a message of about 500 bytes, wait for the answer, and send it again,
  to {sessions} sessions in turn. An answer comes once the message is synced to the disk and readable. *Nothing* is a
  handler on the same application, as one writes it by Litestar's documentation, that takes the same bytes and answers
  a few, behind the same request ids, counters and log lines. *The least* is one that goes around Litestar's own reading
  of bodies and its responses, as ours do: the limit, on the same application and on Litestar by itself. All are served
  by the same granian and uvloop. The load generator runs on the same machine and takes its share of it. *Server CPU*
  counts all threads of the server.
- **Rebuild**: the views of a ledger of {events} events, whose sessions went on {open_sessions} at a time, are built
  anew, up to the sync of the finished file. *By hand* is a loop that decodes each message's payload with msgspec and
  inserts it into a table with the same columns and indexes as `messages`, one row a statement, under the same
  settings of SQLite; it knows no sessions and uses one core.
- **Proofs**: `chatledger verify` of that ledger, without the start of the process; the proof bundle of events as far
  apart as those of one session are; groups of appends of {open_sessions} sessions through the writer's own code, with
  the tree over the leaves and with one that only counts (the bar is 15 % more time).
- **Import and batches**: `chatledger import` of JSON lines, from the start of the process to its end; and requests
  with 100 messages each.
- **One append at a time**: what nobody can go below is a request that does nothing and one sync of the disk.
- **Reads**: over {connections} connections, from {sessions} sessions, beside the same bytes from the memory of the
  same application.
- **Beside peers over HTTP**: other stores of chat, one server at a time under load, with the same bytes. *The store it
  replaces* is written again from its description with Fastify, Drizzle and better-sqlite3, in one process, without a
  log, and with an index by session; it keeps a role and a content and knows no retry, version, order or proof. By
  default it has SQLite's rollback journal, which is durable; *WAL and synchronous FULL* is the faster way to be so.
  *FastAPI and SQLAlchemy* is a service of the same tables as most people would write it, on uvicorn, with SQLite's
  defaults. Each answers a session with all its 50 messages.
- **Beside event stores**: without HTTP, {store_s} seconds a round. *eventsourcing* is that library's SQLite recorder,
  in one process and one thread. *umadb* is UmaDB's server, asked by its Python client: one by one from 64 threads at a
  time, batches from one. Ours is the committer in one process and one thread, with the tree and the views (a batch is
  of 1,000 requests here), and the events read back decoded. Import is the command, on the same machine alone.
- **Sizes**: of the files of that ledger, closed. The views hold each message once more.
- A *bar* is what we promise ourselves; it says PASS if the median reaches it.
- **A large ledger** is measured by `make bench-large`, which takes an hour and writes its own tables. *Appends beside
  every operation*: 100 appends a second of others go on while each operation of the API, and each command, is carried
  out at the largest size that the limits allow. A wait counts from when the append was due. The bar is the longest wait
  of the same appends alone, and 250 ms.
"""

_SUMMARY = (
    ("Append, log level info", "append"),
    ("Append, log level info", "append ÷ a handler that does nothing"),
    ("Append, log level info", "append: latency p99"),
    ("Rebuild", "sessions and messages"),
    ("Import and batches", "chatledger import"),
    ("Reads", "page of 50 messages"),
    ("Beside peers over HTTP", "append ÷ the store it replaces"),
    ("Beside peers over HTTP", "append ÷ the store it replaces, WAL and synchronous FULL"),
    ("Beside peers over HTTP", "append ÷ FastAPI and SQLAlchemy"),
    ("Beside peers over HTTP", "session with 50 messages ÷ the store it replaces"),
)
_SECTION = re.compile(r"(?s)(<!-- bench:start -->\n).*?(<!-- bench:end -->)")
_LARGE = re.compile(r"(?s)(<!-- large:start -->\n).*?(<!-- large:end -->)")


def document(
    machine: Sequence[tuple[str, str]],
    figures: Sequence[Figure],
    peers: Sequence[tuple[str, str]],
    *,
    before: str = "",
    **scale: object,
) -> str:
    """The whole of docs/benchmarks.md. What *before*, the one that it replaces, has of a large ledger is kept."""
    large = _LARGE.search(before)
    parts = [
        _INTRODUCTION.format(**scale),
        "## The machine\n",
        markdown_table(machine, ("what", "value")),
        *(["\n## The peers\n", markdown_table(peers, ("peer", "versions"))] if peers else []),
        "\n## Figures\n",
        as_markdown(figures),
        "\n" + (large[0] if large else "<!-- large:start -->\n<!-- large:end -->"),
    ]
    return "\n".join(parts) + "\n"


def summary(machine: Sequence[tuple[str, str]], figures: Sequence[Figure]) -> str:
    """The rows of the README; those that were not measured are left out."""
    found = {(figure.section, figure.name): figure for figure in figures}
    rows = []
    for section, name in _SUMMARY:
        if (section, name) in found and not found[section, name].missing:
            _, median, spread, unit, _ = found[section, name].cells()
            rows.append((f"{section}: {name}", median, spread, unit))
    facts = dict(machine)
    where = f"{facts['processors']}, {facts['file system']}, {facts['date']}; the load generator on the same machine."
    table = markdown_table(rows, ("what", "median", "min … max", "unit"))
    return f"{table}\n\n{where} All figures: [docs/benchmarks.md](docs/benchmarks.md).\n"


def fill_readme(readme: Path, text: str) -> bool:
    """Put *text* between the markers of *readme*, and tell whether it has them."""
    return _fill(readme, _SECTION, text)


def fill_large(document_path: Path, machine: Sequence[tuple[str, str]], figures: Sequence[Figure]) -> bool:
    """Put what was measured of a large ledger into docs/benchmarks.md, and tell whether it has the markers."""
    parts = ["## A large ledger\n", markdown_table(machine, ("what", "value")), "", as_markdown(figures)]
    return _fill(document_path, _LARGE, "\n".join(parts) + "\n")


def _fill(path: Path, section: re.Pattern[str], text: str) -> bool:
    if not path.exists():
        return False
    before = path.read_text()
    after, count = section.subn(lambda found: f"{found[1]}{text}{found[2]}", before)
    if after != before:
        path.write_text(after)
    return count > 0
