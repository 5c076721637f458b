"""docs/security.md, run from top to bottom: keys from nothing, a browser with a user's token, rotation, the log."""

import html
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support import documents
from support.browser import CHROMIUM, FLAGS
from support.identity_provider import ed_key, jwks, sign
from support.server import Server

PAGE = documents.read("docs/security.md")
SHOWN_URL = "localhost:8000"
BEFORE_THE_START = 3
"""So many commands of the page come before the server is started."""


def test_the_commands_answer_as_shown(tmp_path: Path) -> None:
    """In order: keys before the first start, then beside the running server, rotated, audited."""
    steps = documents.steps(PAGE)
    assert len(steps) >= 12
    for step in steps[:BEFORE_THE_START]:
        assert SHOWN_URL not in step.command
        documents.check(step, tmp_path)
    with Server("data/ledger.db", cwd=tmp_path, env={"CHATLEDGER_LOG_LEVEL": "info"}) as server:
        for step in steps[BEFORE_THE_START:]:
            documents.check(step, tmp_path, replace={SHOWN_URL: f"127.0.0.1:{server.port}"})
        assert server.stop() == 0
    keys = [path.read_text().strip() for path in tmp_path.glob("*.key")]
    assert len(keys) == 4
    assert [key for key in keys if key in server.stderr] == []
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert {"request_id", "tenant", "key", "method", "route", "status", "ms"} <= requests[0].keys()
    assert "s-1" not in server.stderr


def test_the_settings_of_the_page_are_settings() -> None:
    """Each line of its `.env` examples names one; tests/docs/test_operations.py knows them all."""
    settings = documents.read("docs/operations/settings.md")
    names = [line.split("=")[0] for block in documents.blocks(PAGE, "ini") for line in block.splitlines()]
    assert len(names) >= 10
    assert [name for name in names if f"`{name}`" not in settings] == []


@contextmanager
def page_server(page: bytearray) -> Iterator[str]:
    """An origin of its own, which serves *page* as it is then."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (Debian: apt install chromium)")
def test_a_browser_calls_the_api_with_a_users_token(tmp_path: Path) -> None:
    """The page's own script, in a real browser, from another origin, with a token of an identity provider."""
    assert CHROMIUM is not None
    (script,) = documents.blocks(PAGE, "js")
    key = ed_key("first")
    claims = {"iss": "https://id.example.org/", "aud": "chatledger", "tenant_id": "acme", "sub": "u-7f3a"}
    token = sign(key, {**claims, "exp": int(time.time()) + 600})
    (tmp_path / "jwks.json").write_bytes(jwks(key))
    page = bytearray()
    with page_server(page) as origin:
        env = {
            "CHATLEDGER_JWKS": str(tmp_path / "jwks.json"),
            "CHATLEDGER_JWT_ISSUER": claims["iss"],
            "CHATLEDGER_JWT_AUDIENCE": claims["aud"],
            "CHATLEDGER_CORS_ORIGINS": origin,
        }
        with Server(tmp_path / "ledger.db", env=env) as server:
            call = f"firstSession({json.dumps(server.url)}, {json.dumps(token)})"
            show = "document.body.textContent = JSON.stringify(found)"
            page += f"<body><script>{script}\n{call}.then(found => {{ {show}; }})</script>".encode()
            flags = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", origin]
            shown = subprocess.run([CHROMIUM, *flags], capture_output=True, text=True, timeout=120, check=True).stdout
            found = json.loads(html.unescape(shown[shown.index("{") : shown.rindex("}") + 1]))
            assert found["version"] == '"2"'
            assert found["session"]["user_id"] == "u-7f3a"
            headers = {"Authorization": f"Bearer {token}"}
            with server.client() as client:
                path = f"/v1/sessions/{found['session']['id']}"
                assert client.get(path, headers=headers, params={"messages": 1}).json()["messages"][0]["content"]
