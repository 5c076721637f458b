"""Python's collector of cyclic garbage, set for a process that makes many objects and few cycles."""

import gc


def calm_garbage_collector() -> None:
    """Leave alone what was made so far, and look less often: the defaults took 8 % of the time under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
