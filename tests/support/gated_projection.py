"""A projection that waits in the middle of a batch for as long as a file is there: a rebuild that takes its time."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from chatledger.domain.events import Event
from chatledger.storage.connection import Connection
from chatledger_projections.projection import Projection

GATE = "TEST_GATE"
"""The variable of the environment that names the file."""


def apply(db: Connection, events: Sequence[Event]) -> None:
    """Count the batches' events, once the gate is open."""
    while Path(os.environ[GATE]).exists():
        time.sleep(0.001)
    db.execute("UPDATE gated SET events = events + ?", (len(events),))


TABLES = "CREATE TABLE gated (events INTEGER NOT NULL) STRICT; INSERT INTO gated VALUES (0)"
GATED = Projection(name="gated", version=1, tables=TABLES, apply=apply)
