"""The seed of a test that leaves its moments to chance."""

import os
import random

VARIABLE = "TEST_SEED"


def new_seed() -> int:
    """A seed that is printed, so that a failure shows it; `TEST_SEED=n` runs the test with that one again."""
    given = os.environ.get(VARIABLE)
    seed = int(given) if given else random.SystemRandom().randrange(10**6)
    print(f"{VARIABLE}={seed}")  # noqa: T201  # pytest shows it beside a failure
    return seed
