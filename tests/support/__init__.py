"""What several tests share: a real server process, the real conversations."""
