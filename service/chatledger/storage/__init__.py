"""SQLite and files. The only package that knows APSW."""
