"""A CRUD service as most people would write it: FastAPI, SQLAlchemy, SQLite, uvicorn. Runs among the peers' packages.

`python plain.py DATABASE` says its URL on standard output. SQLite's own defaults: a rollback journal, synced.
"""

import datetime as dt
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import JSON, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

LOCK_TIMEOUT_S = 60
"""Not the default of 5 s: with 64 connections some write would wait longer, and fail."""

POOL_CONNECTIONS = 64
"""Not the default of 5 and 10 more: all threads of the server waited for a connection, and those who had one waited for
a thread to give it back. No request was answered."""


class Base(DeclarativeBase):
    """What SQLAlchemy asks for."""


def _new_id() -> str:
    return str(uuid.uuid4())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class StoredSession(Base):
    """A row of `sessions`."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(primary_key=True, default=_new_id)
    tenant_id: Mapped[str] = mapped_column(default="default")
    user_id: Mapped[str | None]
    traits: Mapped[Any] = mapped_column(JSON, nullable=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=_now)
    messages: Mapped[list["StoredMessage"]] = relationship(order_by="StoredMessage.created_at")


class StoredMessage(Base):
    """A row of `messages`."""

    __tablename__ = "messages"

    id: Mapped[str] = mapped_column(primary_key=True, default=_new_id)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    content: Mapped[Any] = mapped_column(JSON, nullable=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=_now)


class SessionIn(BaseModel):
    """The body that creates a session."""

    id: str | None = None
    user_id: str | None = None
    traits: dict[str, Any] | None = None


class MessageIn(BaseModel):
    """The body that appends a message."""

    role: str
    content: Any = None


class MessageOut(BaseModel):
    """A message as it is answered."""

    model_config = ConfigDict(from_attributes=True)
    id: str
    session_id: str
    role: str
    content: Any
    created_at: dt.datetime


class SessionOut(BaseModel):
    """A session as it is answered."""

    model_config = ConfigDict(from_attributes=True)
    id: str
    tenant_id: str
    user_id: str | None
    traits: Any
    created_at: dt.datetime
    messages: list[MessageOut]


engine = create_engine(f"sqlite:///{sys.argv[1]}", pool_size=POOL_CONNECTIONS, connect_args={"timeout": LOCK_TIMEOUT_S})
Base.metadata.create_all(engine)
make_session = sessionmaker(engine)
app = FastAPI()


def get_db() -> Iterator[Session]:
    """A session of SQLAlchemy for each request, as FastAPI's documentation has it."""
    with make_session() as db:
        yield db


Database = Annotated[Session, Depends(get_db)]


@app.post("/sessions", status_code=201)
def create_session(body: SessionIn, db: Database) -> SessionOut:
    """Create a session."""
    session = StoredSession(**body.model_dump(exclude_none=True))
    db.add(session)
    db.commit()
    return SessionOut.model_validate(session)


@app.get("/sessions/{session_id}")
def get_session(session_id: str, db: Database) -> SessionOut:
    """Answer a session with its messages."""
    if (session := db.get(StoredSession, session_id)) is None:
        raise HTTPException(404)
    return SessionOut.model_validate(session)


@app.post("/sessions/{session_id}/messages", status_code=201)
def append_message(session_id: str, body: MessageIn, db: Database) -> MessageOut:
    """Append a message."""
    if db.get(StoredSession, session_id) is None:
        raise HTTPException(404)
    message = StoredMessage(session_id=session_id, role=body.role, content=body.content)
    db.add(message)
    db.commit()
    db.refresh(message)
    return MessageOut.model_validate(message)


def main() -> None:
    """Serve, as `uvicorn plain:app` does."""
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)  # noqa: T201
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # its access log: nobody reads the pipe behind the URL
    uvicorn.Server(uvicorn.Config(app, use_colors=False)).run([listening])


if __name__ == "__main__":
    main()
