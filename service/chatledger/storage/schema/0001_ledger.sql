-- The ledger: streams, events, their guards, and the memory of Idempotency-Keys.

CREATE TABLE ledger (
  only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
  id         TEXT    NOT NULL,               -- a UUID; the views name the ledger that they were built from
  created_at INTEGER NOT NULL                -- µs since the epoch
) STRICT;

CREATE TABLE streams (
  key        INTEGER PRIMARY KEY,            -- small integer for the hot index on events
  tenant_id  TEXT NOT NULL,
  session_id TEXT NOT NULL,
  UNIQUE (tenant_id, session_id)
) STRICT;

CREATE TABLE events (
  position    INTEGER PRIMARY KEY,
  stream      INTEGER NOT NULL REFERENCES streams(key),
  version     INTEGER NOT NULL,
  type        TEXT    NOT NULL,
  schema      INTEGER NOT NULL,
  recorded_at INTEGER NOT NULL,
  actor       TEXT    NOT NULL,
  request_id  TEXT,
  payload     BLOB,
  salt        BLOB,
  leaf        BLOB    NOT NULL,
  UNIQUE (stream, version)
) STRICT;

-- Which command an Idempotency-Key stands for, and where its answer can be made from again. No content is
-- kept here, so an erasure needs to change nothing.
CREATE TABLE idempotency (
  number      INTEGER PRIMARY KEY,           -- in order of use, for the removal of old rows
  tenant_id   TEXT    NOT NULL,
  key         TEXT    NOT NULL,
  fingerprint BLOB    NOT NULL,              -- SHA-256 of method, path and body
  recorded_at INTEGER NOT NULL,
  stream      INTEGER NOT NULL REFERENCES streams(key),
  version     INTEGER NOT NULL,              -- of the session after the command
  positions   TEXT,                          -- of the messages in the answer: JSON array of [first, last]
  UNIQUE (tenant_id, key)
) STRICT;

-- Guards, for any SQL client (rule 2). The one on INSERT also stops INSERT OR REPLACE, which fires no delete
-- trigger unless the connection has recursive_triggers on, and keeps positions and versions without gaps.

CREATE TRIGGER events_insert BEFORE INSERT ON events
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
  OR NEW.version IS NOT (SELECT coalesce(max(version), 0) + 1 FROM events WHERE stream = NEW.stream)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only: position and version must be the next ones');
END;

CREATE TRIGGER events_delete BEFORE DELETE ON events
BEGIN
  SELECT RAISE(ABORT, 'events are immutable');
END;

-- Erasure (rule 9) is the one change let through: payload and salt to NULL, of an event older than the
-- session.erased event of its stream.
CREATE TRIGGER events_update BEFORE UPDATE ON events
WHEN NOT (
  OLD.type <> 'session.erased' AND NEW.payload IS NULL AND NEW.salt IS NULL
  AND NEW.position = OLD.position AND NEW.stream = OLD.stream AND NEW.version = OLD.version
  AND NEW.type = OLD.type AND NEW.schema = OLD.schema AND NEW.recorded_at = OLD.recorded_at
  AND NEW.actor = OLD.actor AND NEW.request_id IS OLD.request_id AND NEW.leaf = OLD.leaf
  AND EXISTS (SELECT 1 FROM events AS later
              WHERE later.stream = OLD.stream AND later.version > OLD.version AND later.type = 'session.erased')
)
BEGIN
  SELECT RAISE(ABORT, 'events are immutable');
END;

CREATE TRIGGER streams_insert BEFORE INSERT ON streams
WHEN EXISTS (SELECT 1 FROM streams WHERE key = NEW.key)
  OR EXISTS (SELECT 1 FROM streams WHERE tenant_id = NEW.tenant_id AND session_id = NEW.session_id)
BEGIN
  SELECT RAISE(ABORT, 'streams are immutable');
END;

CREATE TRIGGER streams_update BEFORE UPDATE ON streams
BEGIN
  SELECT RAISE(ABORT, 'streams are immutable');
END;

CREATE TRIGGER streams_delete BEFORE DELETE ON streams
BEGIN
  SELECT RAISE(ABORT, 'streams are immutable');
END;

CREATE TRIGGER ledger_insert BEFORE INSERT ON ledger
WHEN EXISTS (SELECT 1 FROM ledger)
BEGIN
  SELECT RAISE(ABORT, 'the ledger''s identity is immutable');
END;

CREATE TRIGGER ledger_update BEFORE UPDATE ON ledger
BEGIN
  SELECT RAISE(ABORT, 'the ledger''s identity is immutable');
END;

CREATE TRIGGER ledger_delete BEFORE DELETE ON ledger
BEGIN
  SELECT RAISE(ABORT, 'the ledger''s identity is immutable');
END;
