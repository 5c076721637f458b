"""Work on a ledger's files without a server, or beside one: backup, restore, checks."""
