"""The server's processes: application, listener, supervisor, workers."""
