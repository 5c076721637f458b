"""What it costs that callers show a key or a token: the same appends, to servers that ask for one and an open one."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.append import append_requests
from benchmarks.bench import Bench
from benchmarks.conversations import typical_body
from benchmarks.figures import Figure, ratios
from benchmarks.process import Server, environment
from support.identity_provider import ed_key, jwks, sign

SECTION = "Keys and tokens"
BAR = 0.9
WARM_UP_S = 1
OPEN, KEY, TOKEN = "append, open", "append with a key", "append with a user's token"
_CLAIMS = {"iss": "https://id.example.org/", "aud": "chatledger", "tenant_id": "default", "sub": "u-1"}
_TOKEN_LIFE_S = 24 * 60 * 60


def run(bench: Bench) -> Iterator[Figure]:
    """Three servers in turn, round by round."""
    folders = {kind: bench.new_folder(f"credentials-{number}") for number, kind in enumerate((OPEN, KEY, TOKEN))}
    key = _make_key(folders[KEY])
    signing = ed_key("first")
    token = sign(signing, {**_CLAIMS, "exp": int(time.time()) + _TOKEN_LIFE_S})
    provider = folders[TOKEN] / "jwks.json"
    provider.write_bytes(jwks(signing))
    settings = {"JWKS": str(provider), "JWT_ISSUER": _CLAIMS["iss"], "JWT_AUDIENCE": _CLAIMS["aud"]}
    with (
        Server("chatledger", folders[OPEN]) as free,
        Server("chatledger", folders[KEY], credential=key) as keyed,
        Server("chatledger", folders[TOKEN], credential=token, settings=settings) as signed,
    ):
        body = typical_body(bench.conversations)
        kinds = {
            kind: (server, append_requests(server, bench.scale.sessions, body))
            for kind, server in ((OPEN, free), (KEY, keyed), (TOKEN, signed))
        }
        for server, request in kinds.values():
            bench.drive(server.url, request, seconds=WARM_UP_S)
        speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(bench.scale.rounds):
            for kind, (server, request) in kinds.items():
                speeds[kind].append(bench.drive(server.url, request).per_second)
                bench.say(f"credentials, round {number + 1}: {kind}: {speeds[kind][-1]:,.0f} requests/s")
    for kind, values in speeds.items():
        yield Figure(section=SECTION, name=kind, unit="requests/s", values=values)
    for kind in (KEY, TOKEN):
        found = ratios(speeds[kind], speeds[OPEN])
        yield Figure(section=SECTION, name=f"{kind} ÷ {OPEN}", unit="ratio", values=found, bar=BAR)


def _make_key(folder: Path) -> str:
    command = [sys.executable, "-m", "chatledger", "key", "create", "--database", str(folder / "ledger.db")]
    options = ["--tenant", "default", "--scopes", "read,write"]
    made = subprocess.run([*command, *options], env=environment(), capture_output=True, text=True, check=True)
    return made.stdout.split()[-1]
