-- Erased rows keep their size; single messages can be erased; forks are made in pieces; fingerprints of requests are
-- salted. docs/ledger-format.md has the format, docs/decisions/0022-erasure-in-place.md the reasons.

-- Which events of a session that goes on may be erased, and the message.erased event that says so.
CREATE TABLE erasable (
  position INTEGER PRIMARY KEY REFERENCES events (position),
  by       INTEGER NOT NULL REFERENCES events (position)
) STRICT;
CREATE INDEX erasable_by ON erasable (by);

CREATE TRIGGER erasable_insert BEFORE INSERT ON erasable
WHEN EXISTS (SELECT 1 FROM erasable WHERE position = NEW.position)
  OR NEW.position >= NEW.by
  OR NOT EXISTS (
    SELECT 1 FROM events AS erasing JOIN events AS erased ON erased.stream = erasing.stream
    WHERE erasing.position = NEW.by AND erasing.type = 'message.erased' AND erased.position = NEW.position
      AND erased.type IN ('message.appended', 'message.revised', 'item.appended', 'item.revised')
      AND NEW.position IN (SELECT value FROM json_each(erasing.payload, '$.positions') WHERE type = 'integer'))
BEGIN
  SELECT RAISE(ABORT, 'no message.erased event names this position');
END;

CREATE TRIGGER erasable_update BEFORE UPDATE ON erasable
BEGIN
  SELECT RAISE(ABORT, 'what may be erased is immutable');
END;

CREATE TRIGGER erasable_delete BEFORE DELETE ON erasable
BEGIN
  SELECT RAISE(ABORT, 'what may be erased is immutable');
END;

-- Sessions that readers do not see yet, because a part of the events of their making is not there. A row is added with
-- the session.created event, whoever appends it, and removed with the last event of the making.
CREATE TABLE unfinished (
  stream     INTEGER PRIMARY KEY REFERENCES streams (key),
  visible_at INTEGER NOT NULL,                                  -- the version from which on readers see it
  source     INTEGER REFERENCES streams (key)                   -- of a fork: the stream that it copies
) STRICT;
CREATE INDEX unfinished_by_source ON unfinished (source);

-- One trigger, because each costs every append.
DROP TRIGGER events_erased;
CREATE TRIGGER events_inserted AFTER INSERT ON events
WHEN NEW.type IN ('session.created', 'session.erased', 'message.erased')
BEGIN
  INSERT INTO erasures (position, stream)
    SELECT NEW.position, NEW.stream WHERE NEW.type IN ('session.erased', 'message.erased');
  -- An erased event of a copied ledger says nothing any more.
  INSERT INTO erasable
    SELECT DISTINCT erased.position, NEW.position
    FROM json_each(iif(NEW.type = 'message.erased' AND NEW.payload >= x'01', NEW.payload, '{}'), '$.positions') AS named
    JOIN events AS erased ON erased.position = named.value
    WHERE named.type = 'integer' AND erased.stream = NEW.stream AND erased.position < NEW.position
      AND erased.type IN ('message.appended', 'message.revised', 'item.appended', 'item.revised')
      AND NOT EXISTS (SELECT 1 FROM erasable WHERE position = erased.position);
  INSERT INTO unfinished
    SELECT NEW.stream, NEW.payload ->> '$.visible_at',
      (SELECT source.key FROM streams AS own JOIN streams AS source ON source.tenant_id = own.tenant_id
        WHERE own.key = NEW.stream AND source.session_id = NEW.payload ->> '$.forked_from.session_id')
    WHERE NEW.type = 'session.created' AND NEW.payload >= x'01' AND instr(NEW.payload, '"visible_at":')
      AND NEW.payload ->> '$.visible_at' > NEW.version;
END;

-- Erasure (rule 9) is the one change let through: every byte of payload and salt becomes zero, so that the row keeps its
-- size and place and SQLite overwrites it. It costs the same for each row, whatever stands behind it.
DROP TRIGGER events_update;
CREATE TRIGGER events_update BEFORE UPDATE ON events
WHEN NOT (
  OLD.type <> 'session.erased' AND OLD.payload IS NOT NULL
  AND NEW.payload IS zeroblob(length(OLD.payload)) AND NEW.salt IS zeroblob(16)
  AND NEW.position IS OLD.position AND NEW.stream IS OLD.stream AND NEW.version IS OLD.version
  AND NEW.type IS OLD.type AND NEW.schema IS OLD.schema AND NEW.recorded_at IS OLD.recorded_at
  AND NEW.actor IS OLD.actor AND NEW.request_id IS OLD.request_id AND NEW.leaf IS OLD.leaf
  AND ((SELECT type FROM events WHERE stream = OLD.stream ORDER BY version DESC LIMIT 1) = 'session.erased'
    OR EXISTS (SELECT 1 FROM erasable WHERE position = OLD.position))
)
BEGIN
  SELECT RAISE(ABORT, 'events are immutable');
END;

-- An erasure stays here until it is finished, and until the views that may still have copies of its rows are replaced:
-- `cleared` says that the payloads are gone from the ledger and its log.
ALTER TABLE erasures RENAME COLUMN rewritten TO cleared;
CREATE INDEX erasures_unfinished ON erasures (position) WHERE NOT cleared;

CREATE TRIGGER commitments_insert BEFORE INSERT ON commitments
WHEN EXISTS (SELECT 1 FROM commitments WHERE position = NEW.position)
BEGIN
  SELECT RAISE(ABORT, 'commitments are immutable');
END;

CREATE TRIGGER commitments_update BEFORE UPDATE ON commitments
BEGIN
  SELECT RAISE(ABORT, 'commitments are immutable');
END;

CREATE TRIGGER commitments_delete BEFORE DELETE ON commitments
BEGIN
  SELECT RAISE(ABORT, 'commitments are immutable');
END;

-- Fingerprints are made under the salts of the events that their commands became, and die with these. Into another
-- table, because rows that change their size leave copies.
CREATE TABLE idempotency_now (
  number      INTEGER PRIMARY KEY,           -- in order of use, for the removal of old rows
  tenant_id   TEXT    NOT NULL,
  key         TEXT    NOT NULL,
  fingerprint BLOB    NOT NULL,              -- HMAC of the request, see service/fingerprints.py; zeros: erased
  recorded_at INTEGER NOT NULL,
  stream      INTEGER NOT NULL REFERENCES streams(key),
  version     INTEGER NOT NULL,              -- of the session after the command
  events      INTEGER,                       -- how many the command became, up to this version; NULL: see positions
  positions   TEXT,                          -- of the messages in the answer: JSON array of [first, last]; or NULL
  UNIQUE (tenant_id, key)
) STRICT;
INSERT INTO idempotency_now
  SELECT number, tenant_id, key,
    salted_fingerprint(fingerprint,
      (SELECT salt FROM events WHERE stream = old.stream AND version = old.version),
      CASE WHEN positions IS NULL
        THEN (SELECT group_concat(coalesce(hex(salt), 'erased'), ' ') FROM
          (SELECT salt FROM events WHERE stream = old.stream AND version > old.version - old.events
            AND version <= old.version ORDER BY version))
        ELSE (SELECT group_concat(coalesce(hex(salt), 'erased'), ' ') FROM
          (SELECT e.salt FROM json_each(old.positions) AS run
            JOIN events AS e ON e.position BETWEEN run.value ->> 0 AND run.value ->> 1
            ORDER BY run.key, e.position)) END),
    recorded_at, stream, version, events, positions
  FROM (SELECT i.*, CASE WHEN i.positions IS NOT NULL THEN NULL
      WHEN e.type IN ('session.erased', 'key.created', 'key.revoked') THEN 1 ELSE i.version END AS events
    FROM idempotency AS i LEFT JOIN events AS e ON e.stream = i.stream AND e.version = i.version) AS old
  ORDER BY number;
DROP TABLE idempotency;
ALTER TABLE idempotency_now RENAME TO idempotency;
