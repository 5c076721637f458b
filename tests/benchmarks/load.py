"""What HTTP load is: a request sent over and over, and what came back."""

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent over and over, to each of `paths` in turn."""

    method: str = "GET"
    paths: tuple[str, ...]
    body: bytes = b""
    credential: str = ""

    def parts(self, host: str) -> tuple[bytes, bytes]:
        """The request's bytes before its path, and behind it."""
        head = f" HTTP/1.1\r\nHost: {host}\r\n"
        if self.credential:
            head += f"Authorization: Bearer {self.credential}\r\n"
        if self.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        return f"{self.method} ".encode(), head.encode() + b"\r\n" + self.body


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What came back."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class LoadFailed(Exception):
    """Some requests were not answered, or with another status than 2xx: their speed would mean nothing."""
