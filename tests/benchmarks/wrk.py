"""The load generator `wrk` (https://github.com/wg/wrk, Debian package `wrk`), told what to send by a Lua script."""

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.load import Load, LoadFailed, Request

TIMEOUT_S = 10
SPARE_S = 60
"""How much longer than asked wrk may take before it is given up."""

# Requests are put together once, so that wrk's Lua only picks the next one.
_SCRIPT = """
local before, behind, requests, sent = %s, io.open("behind", "rb"):read("*a"), {}, 0
for path in io.lines("paths") do requests[#requests + 1] = before .. path .. behind end
function request()
  sent = sent %% #requests + 1
  return requests[sent]
end
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local file = io.open("result.json", "w")
  file:write(string.format('{"requests":%%d,"duration_us":%%d,"failed":%%d,"p50_us":%%f,"p99_us":%%f}',
    summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)))
  file:close()
end
"""


class _Result(msgspec.Struct):
    requests: int
    duration_us: int
    failed: int
    p50_us: float
    p99_us: float


def run(url: str, request: Request, *, connections: int, seconds: int, folder: Path) -> Load:
    """Drive *url* with one thread of wrk: the other core is the server's.

    Raises:
        LoadFailed: a request failed, or wrk did.
    """
    before, behind = request.parts(urlsplit(url).netloc)
    (folder / "behind").write_bytes(behind)
    (folder / "paths").write_text("".join(f"{path}\n" for path in request.paths))
    (folder / "script.lua").write_text(_SCRIPT % f'"{before.decode()}"')
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    options = [f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", "--script=script.lua"]
    ran = subprocess.run(
        ["wrk", "-t1", *options, url],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds + SPARE_S,
        check=False,
    )
    if ran.returncode or not result.exists():
        raise LoadFailed(f"wrk failed: {ran.stderr or ran.stdout}")
    found = msgspec.json.decode(result.read_bytes(), type=_Result)
    if found.failed or not found.requests:
        raise LoadFailed(f"{found.failed} of {found.requests} requests failed")
    return Load(
        requests=found.requests,
        seconds=found.duration_us / 1e6,
        p50_ms=found.p50_us / 1e3,
        p99_ms=found.p99_us / 1e3,
    )
