"""The page at `/`: the files of the folder `page`, if the package has one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE: Final = Path(__file__).parent / "page"
# Nothing from elsewhere and nothing inline, so that text of a model that became markup could do nothing.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageFiles(StaticFiles):
    """Static files under the policy, asked for anew each time: a new version of the package brings new ones."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, with its headers."""
        response = await super().get_response(path, scope)
        response.headers["content-security-policy"] = POLICY
        response.headers["referrer-policy"] = "no-referrer"
        response.headers["cache-control"] = "no-cache"
        return response


def page_routes() -> list[BaseRoute]:
    """`/` is index.html, `/page/NAME` every file of the folder; nothing if there is no folder.

    Mounting the folder at `/` would answer for every path, wrong methods of other routes included.
    """
    if not (PAGE / "index.html").is_file():
        return []
    files = PageFiles(directory=PAGE)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return [
        Route("/", index, methods=["GET"], include_in_schema=False),
        Mount("/page", files, name="page"),
    ]
