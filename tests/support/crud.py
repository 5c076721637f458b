"""The file that the CRUD store leaves behind, whose place chatledger takes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import apsw

TABLES = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, tenant_id, user_id, traits, created_at);
CREATE TABLE messages (
  id TEXT PRIMARY KEY,
  session_id TEXT REFERENCES sessions (id) ON DELETE CASCADE,
  role TEXT NOT NULL,
  content,
  created_at DEFAULT CURRENT_TIMESTAMP
);
"""

Row: TypeAlias = "Sequence[apsw.SQLiteValue]"


def make(path: Path, sessions: Iterable[Row], messages: Iterable[Row] = ()) -> Path:
    """Write a store with these rows, in the order of the tables' columns."""
    connection = apsw.Connection(str(path))
    connection.execute(TABLES)
    with connection:
        connection.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", sessions)
        connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", messages)
    connection.close()
    return path
