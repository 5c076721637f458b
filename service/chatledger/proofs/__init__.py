"""Signed tree heads, proof bundles, and their verification."""
