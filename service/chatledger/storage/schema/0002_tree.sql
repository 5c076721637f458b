-- The Merkle tree over the leaves (RFC 6962 section 2.1), kept up in the transaction that appends them.

-- The roots of the perfect subtrees that the leaves so far make up, 32 bytes each, the largest (oldest) first: from them
-- comes the root of the whole tree, and the next leaf needs nothing else.
CREATE TABLE tree (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  size     INTEGER NOT NULL,                 -- leaves: the position of the newest event
  frontier BLOB    NOT NULL
) STRICT;
INSERT INTO tree VALUES (1, 0, x'');

-- Tiles as in C2SP tlog-tiles, from level 1 up: up to 256 hashes of perfect subtrees of 256^level leaves. The tiles of
-- level 0 are the leaves of `events`.
CREATE TABLE tiles (
  level  INTEGER NOT NULL,
  number INTEGER NOT NULL,
  hashes BLOB    NOT NULL,
  PRIMARY KEY (level, number)
) STRICT, WITHOUT ROWID;

-- What is left of an erased event's payload: its leaf can still be made from its record. Without the salt, which is
-- gone, it tells nothing of what the payload was.
CREATE TABLE commitments (
  position   INTEGER PRIMARY KEY REFERENCES events (position),
  commitment BLOB    NOT NULL
) STRICT;
