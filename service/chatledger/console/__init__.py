"""Text that people read in a terminal, and the standard streams."""
