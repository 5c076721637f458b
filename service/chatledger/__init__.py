"""The ledger, its writer and the HTTP service."""

__version__ = "0.1.0"
