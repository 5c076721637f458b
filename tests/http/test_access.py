"""Credentials come first: no route is without a declared scope, and a bad credential learns nothing."""

from collections.abc import Iterator

import pytest
from litestar import get
from litestar.exceptions import ImproperlyConfiguredException

import chatledger.serving.app
from chatledger.settings import Settings
from support.credentials import Credential, guarded
from support.server import Server
from support.wire import ask

MEMORY = Settings(database_path=":memory:")
LITESTARS_OWN = pytest.mark.filterwarnings("ignore:Use of deprecated attribute 'openapi_controller'")
Running = tuple[Server, dict[str, Credential]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server, and all credentials."""
    with guarded(tmp_path_factory.mktemp("guarded")) as found:
        yield found


@LITESTARS_OWN
def test_a_route_without_a_declaration_keeps_the_application_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting it is no way to make something public."""

    @get("/v1/forgotten")
    async def forgotten() -> None: ...

    monkeypatch.setattr(chatledger.serving.app.proofs, "show_head", forgotten)
    with pytest.raises(ImproperlyConfiguredException, match=r"/v1/forgotten.*declares no access"):
        chatledger.serving.app.create_app(MEMORY)


def test_what_the_document_leaves_out_needs_its_scope_too(running: Running) -> None:
    """The transparency log's tiles are of all tenants; the schema is everybody's."""
    server, credentials = running
    for credential in credentials.values():
        for path in ("/tlog/checkpoint", "/tlog/tile/0/000.p/1", "/tlog/tile/entries/000.p/1", "/tlog/tile/9/zzz"):
            answer = ask(server.port, "GET", path, **credential.headers)
            good = 404 if path.endswith("zzz") else 200
            assert answer.status == (good if "operator" in credential.scopes else refusal(credential)), (
                path,
                credential,
            )
        for path in ("/schema", "/schema/openapi.json"):
            assert ask(server.port, "GET", path, **credential.headers).status == 200


def test_what_is_not_there_needs_no_credential(running: Running) -> None:
    """Unknown paths and methods say nothing of anybody's data, so they are the same to all."""
    server, credentials = running
    for method, path, status in (("GET", "/v1/nothing", 404), ("PUT", "/v1/sessions", 405), ("GET", "/v1/a%2Fb", 404)):
        answers = [ask(server.port, method, path, **each.headers) for each in credentials.values()]
        assert {answer.status for answer in answers} == {status}
        assert len({answer.body.replace(answer.headers["x-request-id"].encode(), b"") for answer in answers}) == 1


def test_a_credential_comes_before_all_else(running: Running) -> None:
    """A malformed body, query or header tells nothing to somebody who may not ask at all."""
    target, malformed = "/v1/sessions?limit=0&limit=x&as_of=%00", {"X-Tenant-Id": "no id", "Idempotency-Key": "no key"}
    server, credentials = running
    for credential in credentials.values():
        for method, scope in (("GET", "read"), ("POST", "write")):
            answer = ask(server.port, method, target, {"no": "such"}, **credential.headers, **malformed)
            assert answer.status == (400 if scope in credential.scopes else refusal(credential)), credential


def refusal(credential: Credential) -> int:
    """Of a credential that does not have the scope."""
    return 403 if credential.scopes else 401
