"""An example of a projection of one's own: how many messages each role has written, by tenant."""

from collections import Counter
from collections.abc import Sequence

from chatledger_projections import Connection, Event, MessageAppended, Projection

TABLES = """
CREATE TABLE roles (
  tenant_id TEXT NOT NULL, role TEXT NOT NULL, messages INTEGER NOT NULL, PRIMARY KEY (tenant_id, role)
) STRICT;
"""
ADD = "INSERT INTO roles VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET messages = messages + excluded.messages"


def apply(db: Connection, events: Sequence[Event]) -> None:
    """Count the messages that were appended."""
    counts = Counter(
        (event.tenant_id, event.data.message.role) for event in events if isinstance(event.data, MessageAppended)
    )
    db.executemany(ADD, [(tenant_id, role, count) for (tenant_id, role), count in counts.items()])


ROLES = Projection(name="roles", version=1, tables=TABLES, apply=apply)
