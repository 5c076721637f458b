"""What the ledger's file holds: events, the Merkle tree over them, Idempotency-Keys, uses of API keys."""
