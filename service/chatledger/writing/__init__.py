"""The one writer: group commit, erasure, checkpoints of the write-ahead log."""
