-- When each API key was last used. What keys there are, the events of the stream `keys` of `$system` say.

CREATE TABLE key_uses (
  key_id  TEXT    PRIMARY KEY,
  used_at INTEGER NOT NULL                   -- µs since the epoch
) STRICT, WITHOUT ROWID;
