"""Progress on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from crash.findings import Progress


@contextmanager
def progress_bar(total: int, unit: str, label: str) -> Iterator[Progress]:
    """A bar, and what moves it; nothing is shown where nobody looks."""
    with tqdm(total=total, desc=label, unit=f" {unit}", mininterval=1, disable=None) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield show
