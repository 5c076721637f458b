"""The table `feed`: which positions hold a tenant's events, so that nobody has to scan the ledger for them."""

import heapq
from itertools import islice

from chatledger.domain.events import TYPES
from chatledger.storage.connection import Connection
from chatledger_projections.projection import Projection

# By type first: a filter on a rare type is one short range. All types together are as many ranges, merged.
TABLES = """
CREATE TABLE feed_tenants (
  key       INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE feed (
  tenant   INTEGER NOT NULL,
  type     INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (tenant, type, position)
) STRICT, WITHOUT ROWID;
"""

# Stored numbers: a new type is added at the end of TYPES.
_NUMBERS = {name: number for number, name in enumerate(TYPES, start=1)}

# Only the first event of a stream has to look whether its tenant is known.
PROGRAM = f"""
INSERT INTO feed_tenants (tenant_id)
  SELECT DISTINCT tenant_id FROM batch JOIN streams ON streams.key = batch.stream
  WHERE batch.version = 1 ON CONFLICT DO NOTHING;
INSERT INTO feed
  SELECT feed_tenants.key, CASE type {" ".join(f"WHEN '{name}' THEN {n}" for name, n in _NUMBERS.items())} END, position
  FROM batch JOIN streams ON streams.key = batch.stream
  JOIN feed_tenants ON feed_tenants.tenant_id = streams.tenant_id;
"""

_FIND_TENANT = "SELECT key FROM feed_tenants WHERE tenant_id = ?"
_PAGE = "SELECT position FROM feed WHERE tenant = ? AND type = ? AND position > ? ORDER BY position LIMIT ?"

QUERIES = (_FIND_TENANT, _PAGE)
"""What requests run, for the test that none of them scans a table."""


def positions(db: Connection, tenant_id: str, *, after: int, limit: int, event_type: str | None = None) -> list[int]:
    """Up to *limit* positions of the tenant's events behind *after*, in order, of one type or of all."""
    row = db.execute(_FIND_TENANT, (tenant_id,)).fetchone()
    if row is None:
        return []
    numbers = _NUMBERS.values() if event_type is None else (_NUMBERS[event_type],)
    runs = [[found[0] for found in db.execute(_PAGE, (row[0], number, after, limit))] for number in numbers]
    return list(islice(heapq.merge(*runs), limit))


PROJECTION = Projection(name="feed", version=3, tables=TABLES, program=PROGRAM, aside=True)
