"""A layer between the product and the operating system, on which every call on files can be watched or made to fail.

SQLite's calls are taken at its VFS (https://www.sqlite.org/vfs.html), by functions put into the tables of the `unix` one
through APSW's file controls: so all connections go through here, whoever opens them, and shared memory and locks stay
SQLite's own. (Subclasses of `apsw.VFSFile` would do for watching. But an error raised in one comes out of whatever call
of APSW is under way, also where SQLite passes over it, as it does when a connection is closed: no real disk does that.)
The product's own calls are taken in the module `os`.
"""

import ctypes
import errno
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
    """One call on a file. `file` tells open files apart; `path` is the name that it was opened by, "" of a nameless one.

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
    methods: Any
    fresh_log: bool


class Shim:
    """The functions in SQLite's and the interpreter's tables, while it is active. Only one may be at a time."""

    def __init__(self, root: Path, watcher: Watcher) -> None:
        self._root = str(root)
        self._watcher = watcher
        self._files: dict[int, _File] = {}
        self._count = 0
        self._kept: list[Any] = []
        self._tables: dict[int, Any] = {}
        self._descriptors: dict[int, tuple[str, int]] = {}
        self._real: dict[str, Any] = {}

    def concerns(self, path: str) -> bool:
        """Whether the file is one of those that are watched."""
        return path == self._root or path.startswith(self._root + os.sep)

    def __enter__(self) -> Self:
        pointer = ctypes.c_void_p()
        with closing(apsw.Connection(":memory:")) as db:
            db.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(pointer))
        self._vfs = (ctypes.c_void_p * 12).from_address(pointer.value or 0)
        self._saved = list(self._vfs)
        self._install_vfs()
        for name in ("open", "close", "fsync", "ftruncate", "replace", "rename", "unlink", "mkdir", "fdopen"):
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_os_{name}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        for place in (_VFS_OPEN, _VFS_DELETE, _VFS_ACCESS):
            self._vfs[place] = self._saved[place]

    # SQLite

    def _put(self, table: Any, place: int, kind: Any, function: Callable[..., int]) -> None:
        made = kind(function)
        self._kept.append(made)
        table[place] = ctypes.cast(made, ctypes.c_void_p).value

    def _install_vfs(self) -> None:
        real_open, real_delete = _Open(self._saved[_VFS_OPEN] or 0), _Delete(self._saved[_VFS_DELETE] or 0)
        real_access = _Access(self._saved[_VFS_ACCESS] or 0)

        def on_open(vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
            path = ctypes.string_at(name).decode() if name else ""
            if path and not self.concerns(path):
                return real_open(vfs, name, file, flags, out)
            self._count += 1
            number = self._count
            call = Call(
                "open", path, sqlite=True, file=number, creates=bool(flags & _OPEN_CREATE and not os.path.exists(path))
            )
            code = self._watcher.around(call, lambda: real_open(vfs, name, file, flags, out))
            if code == apsw.SQLITE_OK:
                self._wrap(file, _File(number, path, None, bool(flags & _LOGS and flags & _OPEN_CREATE)))
            else:
                ctypes.c_void_p.from_address(file).value = None
            return code

        def on_delete(vfs: int, name: int, sync: int) -> int:
            path = ctypes.string_at(name).decode()
            if not self.concerns(path):
                return real_delete(vfs, name, sync)
            call = Call("delete", path, sqlite=True, syncs_folder=bool(sync))
            return self._watcher.around(call, lambda: real_delete(vfs, name, sync))

        def on_access(vfs: int, name: int, flags: int, out: int) -> int:
            path = ctypes.string_at(name).decode()
            if not self.concerns(path):
                return real_access(vfs, name, flags, out)
            return self._watcher.around(Call("access", path, sqlite=True), lambda: real_access(vfs, name, flags, out))

        self._put(self._vfs, _VFS_OPEN, _Open, on_open)
        self._put(self._vfs, _VFS_DELETE, _Delete, on_delete)
        self._put(self._vfs, _VFS_ACCESS, _Access, on_access)

    def _wrap(self, address: int, file: _File) -> None:
        methods = ctypes.c_void_p.from_address(address)
        if not methods.value:
            return
        if methods.value not in self._tables:
            self._tables[methods.value] = self._table((ctypes.c_void_p * _METHODS).from_address(methods.value))
        self._files[address] = file
        methods.value = ctypes.addressof(self._tables[methods.value])

    def _table(self, real: Any) -> Any:
        table = (ctypes.c_void_p * _METHODS)(*real)
        close, read, write = _Close(real[_CLOSE]), _Move(real[_READ]), _Move(real[_WRITE])
        truncate, sync, measure = _Truncate(real[_TRUNCATE]), _Sync(real[_SYNC]), _Size(real[_SIZE])
        around, files = self._around, self._files

        def on_close(at: int) -> int:
            files.pop(at, None)
            return close(at)

        def on_read(at: int, to: int, count: int, offset: int) -> int:
            call = Call("read", files[at].path, sqlite=True, file=files[at].number, offset=offset, size=count)
            return around(call, lambda: read(at, to, count, offset))

        def on_write(at: int, source: int, count: int, offset: int) -> int:
            data = ctypes.string_at(source, count)
            call = Call("write", files[at].path, sqlite=True, file=files[at].number, offset=offset, data=data)
            return around(
                call,
                lambda: write(
                    at,
                    ctypes.addressof(ctypes.create_string_buffer(call.data, len(call.data)))
                    if len(call.data) != count
                    else source,
                    len(call.data),
                    offset,
                ),
            )

        def on_truncate(at: int, size: int) -> int:
            call = Call("truncate", files[at].path, sqlite=True, file=files[at].number, size=size)
            return around(call, lambda: truncate(at, size))

        def on_sync(at: int, flags: int) -> int:
            file = files[at]
            call = Call("sync", file.path, sqlite=True, file=file.number, syncs_folder=file.fresh_log)
            code = around(call, lambda: sync(at, flags))
            if code == apsw.SQLITE_OK:
                file.fresh_log = False
            return code

        def on_size(at: int, out: int) -> int:
            return around(Call("size", files[at].path, sqlite=True, file=files[at].number), lambda: measure(at, out))

        self._put(table, _CLOSE, _Close, on_close)
        self._put(table, _READ, _Move, on_read)
        self._put(table, _WRITE, _Move, on_write)
        self._put(table, _TRUNCATE, _Truncate, on_truncate)
        self._put(table, _SYNC, _Sync, on_sync)
        self._put(table, _SIZE, _Size, on_size)
        return table

    def _around(self, call: Call, act: Callable[[], int]) -> int:
        return self._watcher.around(call, act)

    # The product's own calls

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        name = os.fspath(path)
        real = self._real["open"]
        if not isinstance(name, str) or not self.concerns(name):
            return int(real(path, flags, mode, **more))
        self._count += 1
        number = self._count
        made: list[int] = []

        def act() -> int:
            made.append(int(real(path, flags, mode, **more)))
            return 0

        creates = bool(flags & os.O_CREAT) and not os.path.lexists(name)
        empties = bool(flags & os.O_TRUNC)
        self._watcher.around(Call("open", name, sqlite=False, file=number, creates=creates, empties=empties), act)
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
        kind = "sync_folder" if os.path.isdir(name) else "sync"
        self._watcher.around(Call(kind, name, sqlite=False, file=number), lambda: real(descriptor) or 0)

    def _os_ftruncate(self, descriptor: int, size: int) -> None:
        real = self._real["ftruncate"]
        name, number = self._descriptors.get(descriptor, ("", 0))
        if not name:
            real(descriptor, size)
            return
        call = Call("truncate", name, sqlite=False, file=number, size=size)
        self._watcher.around(call, lambda: real(descriptor, size) or 0)

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
        self._watcher.around(call, lambda: real(source, target, **more) or 0)

    def _os_unlink(self, path: Any, **more: Any) -> None:
        name, real = os.fspath(path), self._real["unlink"]
        if not isinstance(name, str) or not self.concerns(name) or not os.path.lexists(name):
            real(path, **more)
            return
        self._watcher.around(Call("delete", name, sqlite=False), lambda: real(path, **more) or 0)

    def _os_mkdir(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        name, real = os.fspath(path), self._real["mkdir"]
        if not isinstance(name, str) or not self.concerns(name) or os.path.lexists(name):
            real(path, mode, **more)
            return
        self._watcher.around(Call("mkdir", name, sqlite=False), lambda: real(path, mode, **more) or 0)

    def _os_fdopen(self, descriptor: int, *arguments: Any, **more: Any) -> Any:
        if descriptor in self._descriptors:
            return _OpenFile(self, descriptor)
        return self._real["fdopen"](descriptor, *arguments, **more)

    def write(self, descriptor: int, data: bytes) -> int:
        """Write at the descriptor's place."""
        name, number = self._descriptors[descriptor]
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        call = Call("write", name, sqlite=False, file=number, offset=offset, data=data)
        return self._watcher.around(call, lambda: os.write(descriptor, call.data))


class _OpenFile:
    """What `os.fdopen` gives while the shim is active: each write is one call."""

    def __init__(self, shim: Shim, descriptor: int) -> None:
        self._shim, self._descriptor = shim, descriptor

    def write(self, data: str | bytes) -> int:
        return self._shim.write(self._descriptor, data.encode() if isinstance(data, str) else data)

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
