"""The page at `/`: its files, and the headers that keep everything else out of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PAGE: Final = Path(__file__).parent / "page"
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final[Mapping[str, str]] = {
    # Own files only, nothing inline, no text that becomes markup or code, no frame around it.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",
}


def page_files() -> dict[str, Path]:
    """Each path of the page and its file; these need no key, for a browser cannot send one with a link."""
    files = {f"/page/{file.name}": file for file in PAGE.iterdir() if file.suffix in _TYPES}
    return files | {"/": files.pop("/page/index.html")}


def page_routes() -> list[Route]:
    """One route for each file, which is read once: no path of a request ever reaches the file system."""
    return [Route(path, _Answer(file).respond, include_in_schema=False) for path, file in page_files().items()]


class _Answer:
    def __init__(self, file: Path) -> None:
        self._body = file.read_bytes()
        self._headers = {**HEADERS, "content-type": _TYPES[file.suffix]}

    async def respond(self, _: Request) -> Response:
        return Response(self._body, headers=self._headers)
