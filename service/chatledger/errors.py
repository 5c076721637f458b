"""What can go wrong, as types with fields; nothing here knows HTTP.

Each error's message is made from its fields, says what was expected and what was found, and never holds
content, SQL or a path that a client may not see. `api/problems.py` maps the `DomainError`s to answers.
"""

from typing import ClassVar

FIELD_CHARACTERS_MAX = 200
"""Longer than any path to a member of the contract."""


class ChatledgerError(Exception):
    """Any error that chatledger raises on purpose."""


class DomainError(ChatledgerError):
    """A command or query that is refused. `name` is the problem's name in the HTTP contract."""

    name: ClassVar[str]

    def members(self) -> dict[str, str | int]:
        """The typed fields that an answer may show."""
        return {}


class InvalidRequest(DomainError):
    """Something in the request is malformed; `field` says where, as a JSON path or a parameter's name.

    Of a name that the request has made up it is the beginning: a refusal is not to be as long as what it refuses.
    """

    name = "invalid-request"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        if field is not None and len(field) > FIELD_CHARACTERS_MAX:
            field = field[:FIELD_CHARACTERS_MAX] + "…"
        self.field = field

    def members(self) -> dict[str, str | int]:
        """`field`, where it is known."""
        return {} if self.field is None else {"field": self.field}


class Unauthenticated(DomainError):
    """There is no credential, or none that is good. The message says why as far as the caller may know."""

    name = "unauthenticated"


class Forbidden(DomainError):
    """The credential is good, and does not allow this; `scope` is what it lacks, where it is a scope."""

    name = "forbidden"

    def __init__(self, detail: str, *, scope: str | None = None) -> None:
        super().__init__(detail)
        self.scope = scope

    def members(self) -> dict[str, str | int]:
        """`scope`, where it is one that is missing."""
        return {} if self.scope is None else {"scope": self.scope}


class RateLimited(DomainError):
    """The caller has used up what it may send for now: *limit*, where it is one that answers show."""

    name = "rate-limited"

    def __init__(self, detail: str, *, retry_after_s: int, limit: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.limit = limit


class RequestTimeout(DomainError):
    """The client was too slow with the body of its request; nothing was done."""

    name = "request-timeout"

    def __init__(self, *, limit_ms: int) -> None:
        super().__init__(f"The body did not arrive within {limit_ms} ms; nothing was done.")


class NotFound(DomainError):
    """There is no such thing for this caller: absent, deleted and foreign are one answer (rule 8)."""

    name = "not-found"

    def __init__(self, what: str) -> None:
        super().__init__(f"No such {what}.")
        self.what = what


class SessionExists(DomainError):
    """The id of a new session is in use, or was in use by a session since deleted."""

    name = "session-exists"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"The session id {session_id!r} is taken.")
        self.session_id = session_id

    def members(self) -> dict[str, str | int]:
        """`session_id`."""
        return {"session_id": self.session_id}


class MessageExists(DomainError):
    """The session, at *version*, has another message of this id, or had one that was removed."""

    name = "message-exists"

    def __init__(self, message_id: str, *, reason: str, version: int) -> None:
        super().__init__(f"The message id {message_id!r} is taken: {reason}.")
        self.message_id = message_id
        self.version = version

    def members(self) -> dict[str, str | int]:
        """`message_id`."""
        return {"message_id": self.message_id}


class VersionConflict(DomainError):
    """The session is not at the version that the caller expects."""

    name = "version-conflict"

    def __init__(self, *, expected: int, actual: int) -> None:
        super().__init__(f"Expected the session at version {expected}; it is at version {actual}.")
        self.expected = expected
        self.version = actual

    def members(self) -> dict[str, str | int]:
        """`expected_version` and `actual_version`."""
        return {"expected_version": self.expected, "actual_version": self.version}


class IdempotencyMismatch(DomainError):
    """The Idempotency-Key was used before, with another method, path or body."""

    name = "idempotency-mismatch"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with another request (method, path or body differ).")


class TooLarge(DomainError):
    """Something is larger than its limit in `settings.py`."""

    name = "too-large"

    def __init__(self, what: str, *, limit_bytes: int) -> None:
        super().__init__(f"The {what} is larger than {limit_bytes} bytes.")
        self.limit_bytes = limit_bytes

    def members(self) -> dict[str, str | int]:
        """`limit_bytes`."""
        return {"limit_bytes": self.limit_bytes}


class Overloaded(DomainError):
    """A bounded queue is full, or the service is stopping. Nothing was done; trying again later is safe."""

    name = "overloaded"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(DomainError):
    """The write was handed to the disk and its fate is not known; it may or may not have happened."""

    name = "outcome-unknown"

    def __init__(
        self,
        detail: str = "The outcome of this write is not known. Repeat it with the same Idempotency-Key or message id.",
    ) -> None:
        super().__init__(detail)


class ErasurePending(DomainError):
    """The erasure is recorded, and readers no longer see the session, but something of it may still be in a file."""

    name = "erasure-pending"

    def __init__(self) -> None:
        super().__init__("The erasure is recorded but not finished: the files are in use. Repeat the request.")


class StorageFull(DomainError):
    """The disk or quota is full. Nothing was written."""

    name = "storage-full"

    def __init__(self) -> None:
        super().__init__("The storage is full; nothing was written.")


class RebuildRunning(DomainError):
    """The views are being built anew already."""

    name = "rebuild-running"

    def __init__(self) -> None:
        super().__init__("A rebuild of the views is running already.")


class RefusedToStart(ChatledgerError):
    """The files or settings are not as they must be, and guessing could lose data (rule 10)."""


class OutputFailed(ChatledgerError):
    """What a command has to say could not be written to standard output; `error` is the system's."""

    def __init__(self, detail: str, *, error: OSError) -> None:
        super().__init__(detail)
        self.error = error


class ServiceFailed(ChatledgerError):
    """A part of a running service has ended by itself, without which it cannot go on; the process ends."""


class WorkerRefused(RefusedToStart):
    """One of several workers could not start; the message is its own."""


class LedgerDamaged(RefusedToStart):
    """The ledger's content contradicts itself. It is left as it is."""


class LedgerLocked(RefusedToStart):
    """Another process writes to this ledger."""


class SettingsError(RefusedToStart):
    """A setting has a wrong value; the message names it."""


class UnsoundProof(ChatledgerError):
    """A checkpoint, key or proof does not show what it is to show; the message says why."""
