"""Reads of the views and of the ledger, in threads and on the event loop."""
