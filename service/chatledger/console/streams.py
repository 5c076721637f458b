"""The standard streams, made so that work under way never ends because of one.

Descriptors 0 to 2 are open from here on: on a closed one the next file or socket would lie, and libuv aborts the
process when it closes one of these. And what cannot be written to standard output or standard error is passed over,
so that a backup, an import or a server goes on to its end. Of standard output that is remembered: a command whose
answer is lost says so at its end, and one that has nothing but its output, an export, looks on the way.
"""

import contextlib
import errno
import fcntl
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from chatledger import os_errors
from chatledger.errors import OutputFailed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDIN, _STDOUT, _STDERR = range(3)
_WAIT_MS = 1000


class _Passing(io.FileIO):
    """A descriptor that takes everything; `failure` is why something was not written."""

    failure: OSError | None = None

    def write(self, data: "ReadableBuffer") -> int:
        """Write what can be written, and wait for a reader that is slow, of whatever kind the descriptor is."""
        while True:
            try:
                written: int | None = super().write(data)
            except OSError as error:
                self.failure = self.failure or error
                return memoryview(data).nbytes
            if written is not None:
                return written
            poll = select.poll()  # it is non-blocking: whoever has the other end of it wants it so
            poll.register(self.fileno(), select.POLLOUT)
            poll.poll(_WAIT_MS)


class _Streams:
    """What `prepare` has made; without it there is nothing to say of them."""

    stdout: _Passing | None = None


def prepare() -> None:
    """Open what is closed of descriptors 0 to 2, and have `sys.stdout` and `sys.stderr` pass over what fails.

    For the start of a program, before it opens anything. A closed descriptor is opened so that nothing can be written
    to it, or nothing read from standard input: whoever closed it is told so, instead of losing an output or taking
    nothing for all.
    """
    _open(_STDIN, os.O_WRONLY)
    for number in (_STDOUT, _STDERR):
        _open(number, os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = open(_STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115  # as long as the process lives
    _Streams.stdout = stdout = _Passing(_STDOUT, "w", closefd=False)
    sys.stdout = _text(stdout, sys.stdout, by_line=stdout.isatty())
    sys.stderr = _text(_Passing(_STDERR, "w", closefd=False), sys.stderr, by_line=True)


def has_input() -> bool:
    """Whether there is a standard input to read from."""
    return fcntl.fcntl(_STDIN, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


def check_output() -> None:
    """Write out what is left, and look whether it is taken: before what is shown only there, or on the way.

    Raises:
        OutputFailed: it does not.
    """
    stream = _Streams.stdout
    if stream is None:
        return
    if fcntl.fcntl(_STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        stream.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
    _check(stream)


def finish() -> None:
    """Write what is still to be written, at the end of a command.

    Raises:
        OutputFailed: some of its output is lost.
    """
    stream = _Streams.stdout
    if stream is not None:
        _check(stream)


def _check(stream: _Passing) -> None:
    sys.stdout.flush()
    error = stream.failure
    if error is None:
        return
    if error.errno == errno.EBADF:
        raise OutputFailed("Standard output is closed: there is nowhere to write to.", error=error)
    raise OutputFailed(f"Standard output cannot be written: {os_errors.reason_of(error)}.", error=error)


def _open(number: int, flags: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = _placeholder(flags)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)  # noqa: FBT003


def _placeholder(flags: int) -> int:
    with contextlib.suppress(OSError):
        return os.open(os.devnull, flags)
    return os.open("/", os.O_RDONLY)  # in a jail without devices


def _text(raw: _Passing, before: TextIO | None, *, by_line: bool) -> TextIO:
    """As the interpreter makes them; but a character that the terminal does not have is no reason to fail either."""
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=by_line)
