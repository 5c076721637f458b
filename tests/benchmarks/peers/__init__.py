"""The stores that others use, started and driven beside ours."""
