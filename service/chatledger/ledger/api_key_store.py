"""The API keys that the ledger has, and when each was last used.

The keys come from events. Uses are no events: they are kept in memory, and written into the file once a minute.
"""

from collections.abc import Mapping, Sequence

import msgspec

from chatledger.domain.api_keys import KeyRing
from chatledger.domain.events import KEYS_SESSION, SYSTEM_TENANT
from chatledger.ledger import event_store
from chatledger.storage.bulk import Bulk
from chatledger.storage.connection import Connection

_READ = "SELECT key_id, used_at FROM key_uses"
_READ_SOME = f"{_READ} WHERE key_id IN (SELECT value FROM json_each(?))"
# Of several workers each writes when it saw a key, and not in the order of the times.
_WRITE = Bulk(
    "INSERT INTO key_uses (key_id, used_at)",
    "(?, ?)",
    "ON CONFLICT (key_id) DO UPDATE SET used_at = max(used_at, excluded.used_at)",
)


def read_keys(connection: Connection) -> KeyRing:
    """The API keys that there are, by the ledger."""
    stream = event_store.find_stream(connection, SYSTEM_TENANT, KEYS_SESSION)
    if stream is None:
        return KeyRing()
    return KeyRing().after(record.event for record in event_store.read_stream(connection, stream))


def read(connection: Connection, key_ids: Sequence[str] | None = None) -> dict[str, int]:
    """The last use of each key, or of those named, by its id, in µs since the epoch."""
    if key_ids is None:
        rows = connection.execute(_READ)
    else:
        rows = connection.execute(_READ_SOME, (msgspec.json.encode(key_ids).decode(),))
    return {str(key_id): int(used_at) for key_id, used_at in rows}


def write(connection: Connection, uses: Mapping[str, int]) -> None:
    """Keep *uses*. The caller holds the write transaction."""
    _WRITE.execute(connection, list(uses.items()))
