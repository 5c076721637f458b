"""Which pages may call the service, by their origin (RFC 6454), and which of its names they may use.

While nobody has keys, whoever reaches the port may do everything, and a browser on this machine reaches it for any page
that it shows: by a name that its owner lets point to 127.0.0.1 (DNS rebinding), or by a form that it sends across.
"""

import ipaddress
import re
from functools import lru_cache

from chatledger.errors import SettingsError

# Punycode for other letters, as browsers send it. No path, no user, no port that is the scheme's own.
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_OWN_PORT = {"http": 80, "https": 443}
_PORT_MAX = 65535
_HOST_CHARACTERS_MAX = 261  # a name of 255 (RFC 1035 section 2.3.4), a colon and five digits
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def parse_origins(text: str) -> tuple[str, ...]:
    """The origins that a setting names, separated by commas.

    Raises:
        SettingsError: one is not as a browser sends it, and would never match.
    """
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        match = _ORIGIN.fullmatch(origin)
        port = match and match["port"]
        if match is None or (port and not _is_port(port, match["scheme"])):
            raise SettingsError(
                f"CHATLEDGER_CORS_ORIGINS names {origin!r}, which is no origin as browsers send it, such as "
                f"https://chat.example.org or http://localhost:3000."
            )
    return origins


def _is_port(text: str, scheme: str) -> bool:
    port = int(text)
    return 0 < port <= _PORT_MAX and port != _OWN_PORT[scheme] and str(port) == text


@lru_cache(maxsize=64)  # 2 µs of each request
def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine itself, which no other page's owner can make point elsewhere."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["host"].lower().strip("[]").removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def refusal(hosts: list[str], origins: list[str], *, scheme: str, allowed: tuple[str, ...]) -> str | None:
    """Why a request to an open service is refused, by its Host and Origin headers; None if it is not."""
    if len(hosts) != 1 or len(hosts[0]) > _HOST_CHARACTERS_MAX or not is_loopback(hosts[0]):
        return "Without API keys the service answers only to names of this machine itself, such as localhost."
    own = f"{scheme}://{hosts[0].lower()}"
    if any(origin != own and origin not in allowed for origin in origins):
        return "Without API keys the service takes nothing from pages of other origins but CHATLEDGER_CORS_ORIGINS."
    return None
