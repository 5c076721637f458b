"""The ledger's schema: numbered SQL files, each run once, in order, in one transaction."""
