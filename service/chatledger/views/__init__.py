"""The engine of the read models: applying events, building, rebuilding, comparing."""
