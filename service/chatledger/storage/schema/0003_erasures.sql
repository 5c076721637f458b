-- Erasures that are recorded and not finished yet: a crash in between leaves the row, and the next start goes on.

CREATE TABLE erasures (
  position  INTEGER PRIMARY KEY REFERENCES events (position),   -- of the session.erased event
  stream    INTEGER NOT NULL REFERENCES streams (key),
  rewritten INTEGER NOT NULL DEFAULT FALSE                      -- payloads are gone and both files rewritten
) STRICT;

-- In the transaction of the event itself, whoever appends it.
CREATE TRIGGER events_erased AFTER INSERT ON events WHEN NEW.type = 'session.erased'
BEGIN
  INSERT INTO erasures (position, stream) VALUES (NEW.position, NEW.stream);
END;
