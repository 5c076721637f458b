"""All settings and limits: one frozen value, read from the environment and `.env`.

The environment wins over `.env`. Every limit names its unit (rule 11); docs/operations/settings.md documents
each one and a test compares the two lists.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from chatledger import setting_sources
from chatledger.errors import SettingsError

MEMORY = ":memory:"
DOTENV = Path(".env")
"""In the working directory."""

Positive = Annotated[int, Meta(ge=1, le=2**40)]
Rate = Annotated[int, Meta(ge=0, le=2**40)]
Milliseconds = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""What goes to SQLite and to the system as a C int: 24 days."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process.

    Each is read from the variable of its name in upper case behind `CHATLEDGER_`, but for `database_path`,
    which is `DATABASE_PATH` as in the store that chatledger replaces.
    """

    database_path: str = "./data/ledger.db"
    """The ledger's file; its folder is made. `:memory:` keeps everything in memory."""
    host: str = "127.0.0.1"
    """The address to serve on. Without API keys only loopback addresses are accepted."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """The TCP port to serve on; 0 takes a free one and prints it."""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """The processes that serve, each with a writer and readers of its own. They share out the limits of queues."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged; `info` has a line for each request."""
    log_format: Literal["", "json", "text"] = ""
    """The form of log lines. Empty: text on a terminal, JSON elsewhere."""
    projections: str = ""
    """Further projections as `module:name`, separated by commas."""
    signing_key: str = ""
    """The file of the Ed25519 key that signs tree heads, made with the ledger. Empty: the ledger's + `.key`."""
    allow_network_filesystem: bool = False
    """Serve a ledger on a network file system although SQLite's locks may not hold there."""

    jwks: str = ""
    """The identity provider's keys for user tokens: a JWKS file, or an https URL. Empty: no user tokens."""
    jwt_issuer: str = ""
    """The `iss` that a user token must have."""
    jwt_audience: str = ""
    """The `aud` that a user token must have."""
    jwt_algorithms: str = "RS256,ES256,EdDSA"
    """The signature algorithms that user tokens may have, out of these three, separated by commas."""
    jwt_tenant_claim: str = "tenant_id"
    """The claim of a user token that names the tenant."""
    jwt_user_claim: str = "sub"
    """The claim of a user token that names the user."""
    jwt_leeway_s: Annotated[int, Meta(ge=0, le=120)] = 30
    """How far the identity provider's clock may be off, in seconds."""
    jwks_cache_s: Annotated[int, Meta(ge=10, le=2**31 - 1)] = 300
    """How long fetched keys are used before they are fetched again, in seconds."""

    tls_certificate: str = ""
    """The PEM file of the certificate chain to serve HTTPS with. Empty: plain HTTP."""
    tls_key: str = ""
    """The PEM file of the certificate's private key."""
    cors_origins: str = ""
    """The origins whose pages may call the API, separated by commas. Empty: none."""
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """A port of its own for /metrics, without a credential. 0: only behind an operator's key."""

    connections_max: Positive = 4096
    """The most connections at a time; further ones wait to be taken. Fewer, where the system allows fewer files."""
    header_timeout_ms: Annotated[int, Meta(ge=100, le=2**31 - 1)] = 10_000
    """How long a client may take to send a request's head; beyond it the connection is closed."""
    body_timeout_ms: Annotated[int, Meta(ge=100, le=2**31 - 1)] = 30_000
    """How long a client may take to send a request's body; beyond it 408."""
    key_requests_per_s: Rate = 0
    """The most requests a second of one key or one user, sustained; beyond it 429. 0: no limit."""
    tenant_requests_per_s: Rate = 0
    """The most requests a second of one tenant, sustained; beyond it 429. 0: no limit."""
    tenant_bytes_per_day: Rate = 0
    """The most bytes of request bodies a day of one tenant; beyond it 429. 0: no limit."""

    keys_max: Positive = 1000
    """The most keys of one tenant, or of operators, that are not revoked; beyond it 400."""
    body_bytes_max: Positive = 16 * 1024 * 1024
    """The largest request body, in bytes; beyond it 413."""
    message_bytes_max: Positive = 1024 * 1024
    """The largest message, in bytes of its JSON; beyond it 413."""
    session_bytes_max: Positive = 64 * 1024
    """The most bytes that a session's title, user id and traits take together as JSON; beyond it 413."""
    json_depth_max: Annotated[int, Meta(ge=8, le=200)] = 100
    """The deepest nesting of arrays and objects in a request body; beyond it 400."""
    batch_bytes_max: Positive = 8 * 1024 * 1024
    """The most bytes that several messages in one request have together; beyond it 413."""
    batch_messages_max: Annotated[int, Meta(ge=1, le=1000)] = 1000
    """The most messages in one request; beyond it 400. The contract's ceiling is 1000."""
    fork_events_max: Positive = 100_000
    """The most events of a session that can be forked; beyond it 400."""
    queue_commands_max: Positive = 2048
    """The most commands that wait for the writer; beyond it 503."""
    queue_bytes_max: Positive = 64 * 1024 * 1024
    """The most bytes that requests take, each three times its body from its first byte to its answer; beyond it 503."""
    group_commands_max: Positive = 512
    """The most commands that one ledger transaction takes."""
    page_bytes_max: Positive = 16 * 1024 * 1024
    """The most bytes of messages or events in one answer; a page ends before it, but has at least one."""
    fork_bytes_max: Positive = 64 * 1024 * 1024
    """The most bytes of messages that a fork copies; beyond it 413."""
    proof_events_max: Positive = 10_000
    """The most events of a session for which there is a proof bundle; beyond it 400."""
    proof_bytes_max: Positive = 64 * 1024 * 1024
    """The most bytes of payloads in a proof bundle; beyond it 413."""
    readers: Annotated[int, Meta(ge=1, le=64)] = 4
    """The number of read-only connections."""
    queue_reads_max: Positive = 1024
    """The most reads that run or wait for a reader; beyond it 503."""
    read_timeout_ms: Milliseconds = 5000
    """The longest time that one read may take in SQLite; beyond it 503."""
    busy_timeout_ms: Milliseconds = 5000
    """How long a connection waits for another one's lock."""
    wal_checkpoint_pages: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 4000
    """Pages written to the write-ahead logs at which they are copied back into their databases."""
    idempotency_days: Annotated[int, Meta(ge=7, le=36_500)] = 30
    """How long an Idempotency-Key is remembered, in days; the contract's floor is 7."""
    scrub_s: Positive = 3600
    """Within how long after an erasure the views are built anew without what copies of it their file may have, in s."""
    shutdown_timeout_ms: Milliseconds = 10_000
    """How long a stop waits for answers that are under way."""
    import_line_bytes_max: Positive = 256 * 1024 * 1024
    """The longest line of an import file, in bytes: one session, held in memory whole."""

    @property
    def in_memory(self) -> bool:
        """Whether nothing is kept in files."""
        return self.database_path == MEMORY


def variable_of(field: str) -> str:
    """The name of the environment variable that sets *field*."""
    return "DATABASE_PATH" if field == "database_path" else setting_sources.PREFIX + field.upper()


class Setting(msgspec.Struct, frozen=True):
    """One setting as it is: its variable, its value, and the place of that: nothing for the default."""

    variable: str
    value: Any
    place: str


def load_settings(environment: Mapping[str, str] | None = None, *, dotenv: Path = DOTENV) -> Settings:
    """Read the settings from *environment* (the process's by default) over the file *dotenv*, if it exists.

    Raises:
        SettingsError: a variable has a wrong value, or one that was meant for us is unknown (a typing error would
            otherwise go unnoticed).
    """
    return Settings(**{name: found.value for name, found in read_settings(environment, dotenv=dotenv).items()})


def read_settings(environment: Mapping[str, str] | None = None, *, dotenv: Path = DOTENV) -> dict[str, Setting]:
    """All settings by their fields, each with the place that its value is from; as `load_settings`."""
    fields = {variable_of(field.name): field for field in msgspec.structs.fields(Settings)}
    found = setting_sources.find(fields, os.environ if environment is None else environment, dotenv)
    settings = {}
    for variable, field in fields.items():
        if (entry := found.get(variable)) is None:
            settings[field.name] = Setting(variable, field.default, "")
        else:
            value = _value(entry.named(variable), entry.text, field.type)
            settings[field.name] = Setting(variable, value, entry.place or "environment")
    return settings


def _value(name: str, text: str, kind: Any) -> Any:
    """*text* as the setting's type.

    Raises:
        SettingsError: it is none; the message says what is.
    """
    if "\0" in text:
        raise SettingsError(f"{name} has a NUL character.")
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{name}={text!r} is not valid: expected {expected(kind)}.") from error


def expected(kind: Any) -> str:
    """The values that a setting of this type may have, in words."""
    found = msgspec.inspect.type_info(kind)
    if isinstance(found, msgspec.inspect.LiteralType):
        return f"one of {', '.join(get_args(kind))}"
    if isinstance(found, msgspec.inspect.IntType):
        return f"a whole number from {found.ge} to {found.le}"
    return "true or false" if isinstance(found, msgspec.inspect.BoolType) else "a text"
