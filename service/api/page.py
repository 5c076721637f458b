"""`/schema`: the page to read and try the API, from files that we ship. Nothing is fetched from elsewhere."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litestar import get
from litestar.enums import MediaType
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.params import FromPath
from openapi_ui_bundles import swagger_ui

from service.api.answer import Answer
from service.errors import NotFound

if TYPE_CHECKING:
    from litestar.connection import Request
    from litestar.router import Router

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
_TYPES = {".css": b"text/css", ".js": b"text/javascript", ".png": b"image/png"}
_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js")

JSON = JsonRenderPlugin(path="/openapi.json", media_type=MediaType.JSON)


class Page(OpenAPIRenderPlugin):
    """The page itself, at the root of `/schema`."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)

    def render(self, request: "Request[Any, Any, Any]", openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """The page's HTML; it loads the document by itself."""
        return _PAGE

    def receive_router(self, router: "Router") -> None:
        """Add the files that the page needs."""
        router.register(show_file)


@get("/files/{name:str}", include_in_schema=False)
async def show_file(name: FromPath[str]) -> Answer:
    """One of the page's files."""
    if name not in _FILES:
        raise NotFound("file")
    return Answer(_read(name), content_type=_TYPES[Path(name).suffix])


@cache
def _read(name: str) -> bytes:
    return _START if name == "start.js" else (Path(swagger_ui.static_path) / name).read_bytes()
