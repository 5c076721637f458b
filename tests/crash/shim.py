"""A layer between the product and the operating system, on which every call on files can be watched or made to fail.

SQLite's calls are taken at its VFS (https://www.sqlite.org/vfs.html), by functions put into the tables of the
`unix` one through APSW's file controls: so all connections go through here, whoever opens them, and shared memory and
locks stay SQLite's own. (Subclasses of `apsw.VFSFile` would do for watching. But an error raised in one comes out of
whatever call of APSW is under way, also where SQLite passes over it, as it does when a connection is
closed: no real disk does that.)
The product's own calls are taken in the module `os`.
"""

import ctypes
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import apsw
import msgspec

MUTATING = frozenset({"open", "write", "truncate", "sync", "delete", "replace", "mkdir", "sync_folder"})

_OPEN_CREATE = apsw.SQLITE_OPEN_CREATE
_LOGS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
_METHODS = 19  # of sqlite3_io_methods, version 3, with the version in front
_CLOSE, _READ, _WRITE, _TRUNCATE, _SYNC, _SIZE = 1, 2, 3, 4, 5, 6
# Words before xOpen in sqlite3_vfs: iVersion + szOsFile, mxPathname, pNext, zName, pAppData.
_VFS_OPEN, _VFS_DELETE, _VFS_ACCESS = 5, 6, 7

_pointer, _int, _int64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_Close = ctypes.CFUNCTYPE(_int, _pointer)
_Move = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _int64)
_Truncate = ctypes.CFUNCTYPE(_int, _pointer, _int64)
_Sync = ctypes.CFUNCTYPE(_int, _pointer, _int)
_Size = ctypes.CFUNCTYPE(_int, _pointer, _pointer)
_Open = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _pointer, _int, _pointer)
_Delete = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int)
_Access = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _pointer)


class Call(msgspec.Struct, gc=False):
    """One call on a file. `file` tells open files apart; `path` is its name when it was opened, or "".

    `syncs_folder`: the call also has the folder's names on the disk, as SQLite's first sync of a new log has.
    """

    kind: str
    path: str
    sqlite: bool
    file: int = 0
    offset: int = 0
    data: bytes = b""
    size: int = 0
    target: str = ""
    creates: bool = False
    empties: bool = False
    syncs_folder: bool = False


class Watcher(Protocol):
    """Whoever sees the calls."""

    def around(self, call: Call, act: Callable[[], int]) -> int:
        """Do *call* by *act*, or not.

        Returns:
            SQLite's result code, 0 for success; for a call of `os` what *act* returned. To have one of these fail
            raise an OSError.
        """


class _File(msgspec.Struct):
    number: int
    path: str
    fresh_log: bool  # its first sync has the folder's names on the disk too


class _Sqlite:
    """The functions in SQLite's tables. They are put there once and stay: files may be closed at any time."""

    def __init__(self) -> None:
        self.shim: Shim | None = None
        self._files: dict[int, _File] = {}
        self._kept: list[Any] = []
        self._tables: dict[int, Any] = {}
        pointer = ctypes.c_void_p()
        with closing(apsw.Connection(":memory:")) as db:
            db.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(pointer))
        vfs = (ctypes.c_void_p * 12).from_address(pointer.value or 0)
        self._real_open, self._real_delete = _Open(vfs[_VFS_OPEN] or 0), _Delete(vfs[_VFS_DELETE] or 0)
        self._real_access = _Access(vfs[_VFS_ACCESS] or 0)
        self._put(vfs, _VFS_OPEN, _Open, self._open)
        self._put(vfs, _VFS_DELETE, _Delete, self._delete)
        self._put(vfs, _VFS_ACCESS, _Access, self._access)

    def _put(self, table: Any, place: int, kind: Any, function: Callable[..., int]) -> None:
        made = kind(function)
        self._kept.append(made)
        table[place] = ctypes.cast(made, ctypes.c_void_p).value

    def _concerns(self, path: str) -> bool:
        return self.shim is not None and (not path or self.shim.concerns(path))

    def _around(self, call: Call, act: Callable[[], int]) -> int:
        shim = self.shim
        return act() if shim is None else shim.watcher.around(call, act)

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        path = ctypes.string_at(name).decode() if name else ""
        shim = self.shim
        if shim is None or not self._concerns(path):
            return self._real_open(vfs, name, file, flags, out)
        number = shim.next_number()
        creates = bool(flags & _OPEN_CREATE and not os.path.lexists(path))
        call = Call("open", path, sqlite=True, file=number, creates=creates)
        code = self._around(call, lambda: self._real_open(vfs, name, file, flags, out))
        methods = ctypes.c_void_p.from_address(file)
        if code != apsw.SQLITE_OK:
            methods.value = None
        elif methods.value:
            if methods.value not in self._tables:
                self._tables[methods.value] = self._table((ctypes.c_void_p * _METHODS).from_address(methods.value))
            self._files[file] = _File(number, path, bool(flags & _LOGS and flags & _OPEN_CREATE))
            methods.value = ctypes.addressof(self._tables[methods.value])
        return code

    def _delete(self, vfs: int, name: int, sync: int) -> int:
        path = ctypes.string_at(name).decode()
        if not self._concerns(path):
            return self._real_delete(vfs, name, sync)
        call = Call("delete", path, sqlite=True, syncs_folder=bool(sync))
        return self._around(call, lambda: self._real_delete(vfs, name, sync))

    def _access(self, vfs: int, name: int, flags: int, out: int) -> int:
        path = ctypes.string_at(name).decode()
        if not self._concerns(path):
            return self._real_access(vfs, name, flags, out)
        return self._around(Call("access", path, sqlite=True), lambda: self._real_access(vfs, name, flags, out))

    def _table(self, real: Any) -> Any:
        table = (ctypes.c_void_p * _METHODS)(*real)
        close, read, write = _Close(real[_CLOSE]), _Move(real[_READ]), _Move(real[_WRITE])
        truncate, sync, measure = _Truncate(real[_TRUNCATE]), _Sync(real[_SYNC]), _Size(real[_SIZE])
        around, files = self._around, self._files

        def call(kind: str, at: int, **more: Any) -> Call:
            return Call(kind, files[at].path, sqlite=True, file=files[at].number, **more)

        def on_close(at: int) -> int:
            files.pop(at, None)
            return close(at)

        def on_read(at: int, to: int, count: int, offset: int) -> int:
            return around(call("read", at, offset=offset, size=count), lambda: read(at, to, count, offset))

        def on_write(at: int, source: int, count: int, offset: int) -> int:
            asked = call("write", at, offset=offset, data=ctypes.string_at(source, count))
            # A short write takes the first part of what was asked.
            return around(asked, lambda: write(at, source, len(asked.data), offset))

        def on_truncate(at: int, size: int) -> int:
            return around(call("truncate", at, size=size), lambda: truncate(at, size))

        def on_sync(at: int, flags: int) -> int:
            file = files[at]
            code = around(call("sync", at, syncs_folder=file.fresh_log), lambda: sync(at, flags))
            if code == apsw.SQLITE_OK:
                file.fresh_log = False
            return code

        def on_size(at: int, out: int) -> int:
            return around(call("size", at), lambda: measure(at, out))

        self._put(table, _CLOSE, _Close, on_close)
        self._put(table, _READ, _Move, on_read)
        self._put(table, _WRITE, _Move, on_write)
        self._put(table, _TRUNCATE, _Truncate, on_truncate)
        self._put(table, _SYNC, _Sync, on_sync)
        self._put(table, _SIZE, _Size, on_size)
        return table


_sqlite: list[_Sqlite] = []


_CALLS = ("open", "close", "fsync", "ftruncate", "write", "pwrite", "replace", "rename", "unlink", "mkdir", "fdopen")


class Shim:
    """What is between, while it is active. Only one may be at a time."""

    def __init__(self, root: Path, watcher: Watcher) -> None:
        self.watcher = watcher
        self._root = str(root)
        self._numbers = itertools.count(1)
        self._descriptors: dict[int, tuple[str, int]] = {}
        self._real: dict[str, Any] = {}

    def concerns(self, path: str) -> bool:
        """Whether the file is one of those that are watched."""
        return path == self._root or path.startswith(self._root + os.sep)

    def next_number(self) -> int:
        """Of a file that is being opened."""
        return next(self._numbers)

    def __enter__(self) -> Self:
        if not _sqlite:
            _sqlite.append(_Sqlite())
        _sqlite[0].shim = self
        for name in _CALLS:
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_os_{name}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        _sqlite[0].shim = None

    # The product's own calls

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        name = os.fspath(path)
        real = self._real["open"]
        if not isinstance(name, str) or not self.concerns(name):
            return int(real(path, flags, mode, **more))
        number = self.next_number()
        made: list[int] = []

        def act() -> int:
            made.append(int(real(path, flags, mode, **more)))
            return 0

        creates = bool(flags & os.O_CREAT) and not os.path.lexists(name)
        empties = bool(flags & os.O_TRUNC)
        self.watcher.around(Call("open", name, sqlite=False, file=number, creates=creates, empties=empties), act)
        self._descriptors[made[0]] = (name, number)
        return made[0]

    def _os_close(self, descriptor: int) -> None:
        self._descriptors.pop(descriptor, None)
        self._real["close"](descriptor)

    def _os_fsync(self, descriptor: int) -> None:
        real = self._real["fsync"]
        name, number = self._descriptors.get(descriptor, ("", 0))
        if not name:
            real(descriptor)
            return
        kind = "sync_folder" if Path(name).is_dir() else "sync"
        self.watcher.around(Call(kind, name, sqlite=False, file=number), lambda: real(descriptor) or 0)

    def _os_ftruncate(self, descriptor: int, size: int) -> None:
        real = self._real["ftruncate"]
        name, number = self._descriptors.get(descriptor, ("", 0))
        if not name:
            real(descriptor, size)
            return
        call = Call("truncate", name, sqlite=False, file=number, size=size)
        self.watcher.around(call, lambda: real(descriptor, size) or 0)

    def _os_replace(self, source: Any, target: Any, **more: Any) -> None:
        self._move(self._real["replace"], source, target, more)

    def _os_rename(self, source: Any, target: Any, **more: Any) -> None:
        self._move(self._real["rename"], source, target, more)

    def _move(self, real: Any, source: Any, target: Any, more: dict[str, Any]) -> None:
        name, final = os.fspath(source), os.fspath(target)
        if not isinstance(name, str) or not self.concerns(name):
            real(source, target, **more)
            return
        call = Call("replace", name, sqlite=False, target=final)
        self.watcher.around(call, lambda: real(source, target, **more) or 0)

    def _os_unlink(self, path: Any, **more: Any) -> None:
        name, real = os.fspath(path), self._real["unlink"]
        if not isinstance(name, str) or not self.concerns(name) or not os.path.lexists(name):
            real(path, **more)
            return
        self.watcher.around(Call("delete", name, sqlite=False), lambda: real(path, **more) or 0)

    def _os_mkdir(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        name, real = os.fspath(path), self._real["mkdir"]
        if not isinstance(name, str) or not self.concerns(name) or os.path.lexists(name):
            real(path, mode, **more)
            return
        self.watcher.around(Call("mkdir", name, sqlite=False), lambda: real(path, mode, **more) or 0)

    def _os_fdopen(self, descriptor: int, *arguments: Any, **more: Any) -> Any:
        if descriptor in self._descriptors:
            return _OpenFile(self, descriptor)
        return self._real["fdopen"](descriptor, *arguments, **more)

    def _os_write(self, descriptor: int, data: Any) -> int:
        real = self._real["write"]
        if descriptor not in self._descriptors:
            return int(real(descriptor, data))
        return self._written(
            descriptor, data, os.lseek(descriptor, 0, os.SEEK_CUR), lambda part: real(descriptor, part)
        )

    def _os_pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        real = self._real["pwrite"]
        if descriptor not in self._descriptors:
            return int(real(descriptor, data, offset))
        return self._written(descriptor, data, offset, lambda part: real(descriptor, part, offset))

    def _written(self, descriptor: int, data: Any, offset: int, act: Callable[[bytes], int]) -> int:
        """As the real one: how many bytes were written."""
        name, number = self._descriptors[descriptor]
        call = Call("write", name, sqlite=False, file=number, offset=offset, data=bytes(data))
        done: list[int] = []

        def write() -> int:
            done.append(act(call.data))  # a short write takes the first part of what was asked
            return 0

        self.watcher.around(call, write)
        return done[0]


class _OpenFile:
    """What `os.fdopen` gives while the shim is active: each write is one call."""

    def __init__(self, shim: Shim, descriptor: int) -> None:
        self._shim, self._descriptor = shim, descriptor

    def write(self, data: str | bytes) -> int:
        return os.write(self._descriptor, data.encode() if isinstance(data, str) else data)

    def writelines(self, lines: list[bytes]) -> None:
        for line in lines:
            self.write(line)

    def read(self) -> bytes:
        return b"".join(iter(lambda: os.read(self._descriptor, 1 << 20), b""))

    def seek(self, offset: int) -> int:
        return os.lseek(self._descriptor, offset, os.SEEK_SET)

    def truncate(self) -> None:
        os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_CUR))

    def flush(self) -> None:
        """Nothing waits."""

    def fileno(self) -> int:
        return self._descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


@contextmanager
def watched(root: Path, watcher: Watcher) -> Iterator[Shim]:
    """Have *watcher* see every call on a file under *root*."""
    with Shim(root, watcher) as shim:
        yield shim


def disk_error(number: int) -> OSError:
    """What `os` raises."""
    return OSError(number, os.strerror(number))


CODES_EIO = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "size": apsw.SQLITE_IOERR_FSTAT,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "access": apsw.SQLITE_IOERR_ACCESS,
    "open": apsw.SQLITE_CANTOPEN,
}
"""What SQLite's own VFS makes of an error of the device."""
CODES_FULL = {**CODES_EIO, "write": apsw.SQLITE_FULL}
"""The same of a full disk."""
ERRNO = {"eio": errno.EIO, "full": errno.ENOSPC}
