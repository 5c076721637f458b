"""`/schema`: the page to read and try the API, from files that we ship. Nothing is fetched from elsewhere."""

from functools import cache
from pathlib import Path

import msgspec
from litestar import Controller, Litestar, get
from litestar.params import FromPath
from openapi_ui_bundles import swagger_ui

from chatledger.domain.access import PUBLIC
from chatledger.errors import NotFound
from chatledger.http.access_hook import ACCESS, handlers_of
from chatledger.http.openapi.schemas import CREDENTIAL, SCHEMAS
from chatledger.http.request import Call
from chatledger.http.response import Answer

_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>chatledger API</title>
<link rel="icon" href="/schema/files/favicon-32x32.png">
<link rel="stylesheet" href="/schema/files/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/schema/files/swagger-ui-bundle.js"></script>
<script src="/schema/files/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({url: "/schema/openapi.json", dom_id: "#swagger-ui", deepLinking: true,
  tryItOutEnabled: true, validatorUrl: null});
"""
# Swagger UI styles elements and draws icons by itself; everything else has to come from this server.
_ONLY_FROM_HERE = (
    b"content-security-policy",
    b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
)
_TYPES = {".css": b"text/css", ".js": b"text/javascript", ".png": b"image/png"}
_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js")


@get("/", access=PUBLIC, include_in_schema=False)
async def show_start() -> Answer:
    """The way to the page: there is nothing else to look at yet."""
    return Answer(b"", status=307, headers=[(b"location", b"/schema")])


class SchemaController(Controller):
    """The page, its files and the document."""

    path = "/schema"
    include_in_schema = False

    @get(access=PUBLIC)
    async def show_page(self) -> Answer:
        """The page; it loads the document by itself."""
        return Answer(_PAGE, content_type=b"text/html; charset=utf-8", headers=[_ONLY_FROM_HERE])

    @get("/openapi.json", access=PUBLIC)
    async def show_document(self, request: Call) -> Answer:
        """The OpenAPI document."""
        return Answer(_document(request.app))

    @get("/files/{name:str}", access=PUBLIC)
    async def show_file(self, name: FromPath[str]) -> Answer:
        """One of the page's files."""
        if name not in _FILES:
            raise NotFound("file")
        return Answer(_read(name), content_type=_TYPES[Path(name).suffix])


@cache
def _document(app: Litestar) -> bytes:
    # Litestar keeps only the components that it has made from annotations itself.
    document = app.openapi_schema.to_schema()
    document["components"] = {"schemas": SCHEMAS, "securitySchemes": {"credential": CREDENTIAL}}
    for path, handler in handlers_of(app):
        needed = handler.opt[ACCESS]
        if path in document["paths"] and needed is not PUBLIC:
            for method in handler.http_methods:
                document["paths"][path][method.lower()]["security"] = [{"credential": [needed.value]}]
    return msgspec.json.encode(document)


@cache
def _read(name: str) -> bytes:
    return _START if name == "start.js" else (Path(swagger_ui.static_path) / name).read_bytes()
