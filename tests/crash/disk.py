"""What a disk may look like after a power cut: a record of the calls on files, and the images that follow from it.

The model: what was written to a file since its last sync may be there in any part, each 512 bytes for themselves; a
name that was made, changed or removed since the last sync of its folder may be as before or as after, each name for
itself, but a rename is one step. What was synced is there. A file's sync says nothing of its name.
"""

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from crash.shim import Call

SECTOR = 512
FIXED = ("nothing", "all", "names only", "contents only")
"""The variants that every operation has, before those by chance."""


class Op(msgspec.Struct, gc=False):
    """One step of the record. `names` are the entries that it sets: a file's number, -1 for a folder, None for none."""

    kind: str  # write, truncate, sync, names, sync_folder, mark
    file: int = 0
    offset: int = 0
    data: bytes = b""
    names: dict[str, int | None] = {}
    folder: str = ""
    mark: str = ""


class Trace(msgspec.Struct):
    """What lay on the disk at the start, synced, and all that came after."""

    contents: dict[int, bytes]
    names: dict[str, int]
    ops: list[Op]

    def describe(self, number: int) -> str:
        """Operation *number* (from 0) in words."""
        op = self.ops[number]
        named = {file: name for name, file in self.names.items()}
        for each in self.ops[: number + 1]:
            named.update({file: name for name, file in each.names.items() if file is not None})
        name = named.get(op.file, "")
        match op.kind:
            case "write":
                return f"write {name} {op.offset}+{len(op.data)}"
            case "truncate":
                return f"truncate {name} to {op.offset}"
            case "names":
                return f"names {op.names}"
            case "sync_folder":
                return f"sync folder {op.folder or '.'}"
            case "mark":
                return f"mark {op.mark}"
        return f"{op.kind} {name}"


class Recorder:
    """A watcher that does every call and notes it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._number = 0
        self._open: dict[int, int] = {}
        self.trace = Trace({}, {}, [])
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_dir():
                self.trace.names[name] = -1
            elif not name.endswith("-shm"):
                self._number += 1
                self.trace.names[name] = self._number
                self.trace.contents[self._number] = path.read_bytes()
        self._names: dict[str, int | None] = dict(self.trace.names)

    def mark(self, text: str) -> None:
        """Note that something else has happened: a group was sent, or acknowledged."""
        with self._lock:
            self.trace.ops.append(Op("mark", mark=text))

    def around(self, call: Call, act: Callable[[], int]) -> int:
        """Do it, and note it if it succeeded and changes what is on the disk."""
        if call.kind in ("read", "size", "access") or not call.path or call.path.endswith("-shm"):
            return act()
        with self._lock:
            code = act()
            if code == 0 or not call.sqlite:
                self._note(call)
            return code

    def _note(self, call: Call) -> None:  # noqa: C901  # one case for each kind of call
        name = os.path.relpath(call.path, self._root)
        name = "" if name == "." else name
        folder = _folder_of(name)
        add = self.trace.ops.append
        match call.kind:
            case "open":
                if call.creates:
                    self._number += 1
                    self._set({name: self._number})
                self._open[call.file] = self._names.get(name) or 0
                if call.empties and not call.creates:
                    add(Op("truncate", self._open[call.file]))
            case "write":
                add(Op("write", self._open[call.file], call.offset, call.data))
            case "truncate":
                add(Op("truncate", self._open[call.file], call.size))
            case "sync":
                add(Op("sync", self._open[call.file]))
            case "delete":
                self._set({name: None})
            case "mkdir":
                self._set({name: -1})
            case "replace":
                self._set({name: None, os.path.relpath(call.target, self._root): self._names[name]})
            case "sync_folder":
                add(Op("sync_folder", folder=name))
        if call.syncs_folder:
            add(Op("sync_folder", folder=folder))

    def _set(self, names: dict[str, int | None]) -> None:
        self._names.update(names)
        self.trace.ops.append(Op("names", names=names))


class _FileState:
    """A file's contents: `durable`, and what came since; `live` is all of it."""

    def __init__(self, content: bytes) -> None:
        self.durable = content
        self.live = bytearray(content)
        self.waiting: list[Op] = []
        self.digest: bytes | None = None

    def do(self, op: Op) -> None:
        if op.kind == "sync":
            self.durable, self.waiting = bytes(self.live), []
        else:
            _apply(self.live, op, None)
            self.waiting.append(op)


def _apply(content: bytearray, op: Op, sectors: Callable[[], bool] | None) -> None:
    """Do a write or a truncation; of a torn write the 512 bytes that *sectors* says."""
    if op.kind == "truncate":
        if op.offset <= len(content):
            del content[op.offset :]
        else:
            content.extend(bytes(op.offset - len(content)))
        return
    parts = [(op.offset, op.data)]
    if sectors is not None:
        parts, start = [], 0
        while start < len(op.data):
            end = min(len(op.data), start + SECTOR - (op.offset + start) % SECTOR)
            if sectors():
                parts.append((op.offset + start, op.data[start:end]))
            start = end
    for offset, data in parts:
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data


class Image(msgspec.Struct):
    """A disk after a power cut behind operation number `operation`."""

    operation: int
    variant: int
    names: dict[str, int | None]
    contents: dict[int, bytes]

    def digest(self) -> bytes:
        """The same for the same names and contents."""
        whole = hashlib.blake2b(digest_size=16)
        for name, file in sorted(self.names.items()):
            content = b"" if file is None or file < 0 else self.contents[file]
            whole.update(f"{name}\0{file == -1}\0{len(content)}\0".encode())
            whole.update(content)
        return whole.digest()

    def write(self, folder: Path) -> None:
        """Put it into the empty *folder*."""
        for name, file in sorted(self.names.items()):
            if file == -1:
                (folder / name).mkdir()
            elif file is not None:
                (folder / name).write_bytes(self.contents[file])
                (folder / name).chmod(0o600)


class Disk:
    """The state of a disk as a trace goes on."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.number = -1  # of the last operation that was done
        self._files = {number: _FileState(content) for number, content in trace.contents.items()}
        self._durable: dict[str, int | None] = dict(trace.names)
        self._live: dict[str, int | None] = dict(trace.names)
        self._waiting: list[dict[str, int | None]] = []

    def step(self) -> Op:
        """Do the next operation."""
        self.number += 1
        op = self.trace.ops[self.number]
        if op.kind in ("write", "truncate", "sync"):
            self._files[op.file].do(op)
        elif op.kind == "names":
            for file in op.names.values():
                if file is not None and file > 0:
                    self._files.setdefault(file, _FileState(b""))
            self._live.update(op.names)
            self._waiting.append(op.names)
        elif op.kind == "sync_folder":
            self._sync_folder(op.folder)
        return op

    def _sync_folder(self, folder: str) -> None:
        left = []
        for names in self._waiting:
            if all(_folder_of(name) == folder for name in names):
                self._durable.update(names)
            else:
                left.append(names)
        self._waiting = left

    def image(self, seed: int, variant: int) -> Image:
        """One of the images that a power cut now may leave; the same *seed* and *variant* give the same one."""
        chance = random.Random(f"{seed}/{self.number}/{variant}")
        names = self._names(variant, chance)
        names = {name: file for name, file in names.items() if file is not None and _has_folder(name, names)}
        numbers = sorted({file for file in names.values() if file is not None and file > 0})
        # Chance for the file as a whole: none, all, the first few, any, and any with the last one torn.
        contents = {number: self._content(self._files[number], variant, chance) for number in numbers}
        return Image(self.number, variant, names, contents)

    def _names(self, variant: int, chance: random.Random) -> dict[str, int | None]:
        if variant < len(FIXED):
            return self._live if FIXED[variant] in ("all", "names only") else self._durable
        how = chance.random()
        if how < 0.4:
            return self._live
        names = dict(self._durable)
        for each in self._waiting:
            if how > 0.6 and chance.random() < 0.5:
                names.update(each)
        return names

    def _content(self, file: _FileState, variant: int, chance: random.Random) -> bytes:
        if not file.waiting:
            return file.durable
        how = chance.randrange(6)
        if variant < len(FIXED):
            how = 1 if FIXED[variant] in ("all", "contents only") else 0
        if how == 0:
            return file.durable
        if how == 1:
            return bytes(file.live)
        content = bytearray(file.durable)
        last = chance.randrange(len(file.waiting)) if how == 2 else len(file.waiting) - 1
        keep = chance.choice((0.5, 0.8, 0.95))
        for number, op in enumerate(file.waiting[: last + 1]):
            torn = number == last or (how == 5 and chance.random() < 0.2)
            if how == 2 or torn or chance.random() < keep:
                _apply(content, op, (lambda: chance.random() < 0.5) if torn and how != 3 else None)
        return bytes(content)


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _has_folder(name: str, names: dict[str, int | None]) -> bool:
    folder = _folder_of(name)
    return not folder or (names.get(folder) == -1 and _has_folder(folder, names))


def images(trace: Trace, seed: int, variants: range) -> Iterator[Image]:
    """The images behind each operation of these *variants*."""
    disk = Disk(trace)
    for _ in trace.ops:
        op = disk.step()
        # What was sent or acknowledged changes no disk, but what is asked of it.
        for variant in variants if op.kind != "mark" else range(min(len(FIXED), len(variants))):
            yield disk.image(seed, variant)
