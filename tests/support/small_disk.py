"""A small file system of one's own to fill: by the best means that this machine allows."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.altered import WatchedServer

SIZE_MIB = 16
QUOTA_BYTES = 6 * 1024 * 1024
"""Of each file, where there is no file system to be had."""
_MOUNT = 'mount -t tmpfs -o size={size}m none "$0" && exec "$@"'


@dataclass(frozen=True)
class SmallDisk:
    """Where a server can be put that will run out of space.

    `namespace`: a tmpfs in a mount namespace of the server's own, without root. `mount`: a tmpfs, mounted by root.
    `quota`: a limit on the size of each file (RLIMIT_FSIZE), where the system allows neither; SQLite then sees EFBIG,
    which it takes for an I/O error and not for a full disk.
    """

    mechanism: str
    folder: Path
    prefix: tuple[str, ...] = ()

    @property
    def is_disk(self) -> bool:
        """Whether it is a file system, and not only a quota."""
        return self.mechanism != "quota"

    def seen_from_here(self, server: WatchedServer) -> Path:
        """The folder, as this process reaches it."""
        return Path(f"/proc/{server.pid}/root{self.folder}") if self.mechanism == "namespace" else self.folder

    def fill(self, server: WatchedServer) -> None:
        """Take all but some of the space away."""
        if not self.is_disk:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (QUOTA_BYTES, resource.RLIM_INFINITY))
            return
        here = self.seen_from_here(server)
        space = os.statvfs(here)
        with (here / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize // 2)

    def free(self, server: WatchedServer) -> None:
        """Give it back."""
        if self.is_disk:
            (self.seen_from_here(server) / "ballast").unlink()
        else:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """The best that there is: a namespace, else a mount, else a quota."""
    folder.mkdir()
    mount = _MOUNT.format(size=SIZE_MIB)
    by_namespace = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder))
    if _works(*by_namespace, "true"):
        yield SmallDisk("namespace", folder, by_namespace)
    elif os.geteuid() == 0 and _works("mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "none", str(folder)):
        try:
            yield SmallDisk("mount", folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        yield SmallDisk("quota", folder)


def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False
