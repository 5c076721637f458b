"""The read models: tables, the builders that make them from events, and the queries that read them."""
