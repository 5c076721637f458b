"""Nothing that one caller asks for holds the appends of others longer than 250 ms more than they wait alone."""

import sys
from collections.abc import Container
from functools import partial
from pathlib import Path

import pytest

from stalls.measure import measure
from stalls.operations import SHORT, Operation, Scene, seed
from support.server import Server

MORE_S = 0.25
TRIES = 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_operation_holds_the_appends_of_others(tmp_path: Path) -> None:
    """In none of some tries: a machine that does something else now and then is no fault of ours, a stall is."""
    database = tmp_path / "ledger.db"
    credentials = seed(database, SHORT)
    stalls: dict[str, float] | None = None
    for number in range(1, TRIES + 1):
        chosen = (lambda _: True) if stalls is None else partial(_is_one_of, stalls)
        measured = measure(database, SHORT, credentials, tries=1, first=number, chosen=chosen, say=print)
        sys.stdout.write(f"alone: longest {measured.alone_longest_s:.3f} s\n")
        assert measured.refused == 0
        bar_s = measured.alone_longest_s + MORE_S
        stalls = {each.operation.title: max(each.longest_s) for each in measured.operations}
        stalls = {title: longest_s for title, longest_s in stalls.items() if longest_s > bar_s}
        if not stalls:
            return
    assert stalls == {}


def _is_one_of(titles: Container[str], operation: Operation) -> bool:
    """Erasing needs the fork that it erases: what belongs together is tried together."""
    return operation.title in titles or operation.covers in ("forkSession", "createSession")


def test_every_operation_of_the_document_is_tried(tmp_path: Path) -> None:
    """And each command that can be run beside a server."""
    with Server(":memory:") as server, server.client() as client:
        document = client.get("/schema/openapi.json").json()
    ids = {each["operationId"] for item in document["paths"].values() for each in item.values()}
    tried: list[Operation] = list(Scene(0, tmp_path / "l.db", SHORT, ("", "")).operations())  # type: ignore[arg-type]
    covered = {name for operation in tried for name in operation.covers.split()}
    assert ids - covered == set()
    assert covered - ids == {"backup", "verify", "export"}
