"""The outermost layer: checks of keys, hosts and headers; ids, the access log, the last exception handler."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import Sequence, Set
from hashlib import sha256
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surelock.server.errors import ApiError, internal_error
from surelock.server.log import known_method, log_failure
from surelock.server.page_files import page_files
from surelock.server.service import Service

PROBES: Final = frozenset({"/livez", "/readyz", "/health"})
# What is refused before it is routed when the queue is full; the others do not take a place in it.
QUEUED: Final = frozenset(
    {"/v1/completions", "/v1/chat/completions", "/v1/fim/completions", "/infill", "/tokenize", "/detokenize"}
)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY: Final = "surelock.key"
_log = logging.getLogger("surelock.server")


class Guard:
    """ASGI middleware around everything else; what is not plainly allowed is refused.

    Args:
        app: the application.
        service: whose settings hold the keys, the host names and the limits.
        adds_request_id: name the request in the answer; a proxy in front may do so already.
    """

    def __init__(self, app: ASGIApp, service: Service, *, adds_request_id: bool = True) -> None:
        self.service = service
        self._app = app
        self._adds_request_id = adds_request_id
        self._settings = service.settings
        self._keys = [sha256(key.encode()).digest() for key in service.settings.api_keys]
        self._host_names = service.settings.host_names
        self._open_paths = PROBES | page_files().keys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"this server speaks HTTP, not {scope['type']}")
        started = time.monotonic()
        given_id = Headers(scope=scope).get("x-request-id", "")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else secrets.token_hex(12)
        status = 0
        # HEAD is GET without the body; a route of FastAPI knows only what it was told.
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET"}

        async def send_noted(message: Message) -> None:
            nonlocal status
            if is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode())] if self._adds_request_id else []
                message["headers"] = [*message.get("headers", []), *added, (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            self._check(scope)
            if scope["method"] == "POST" and is_one_of(QUEUED, scope):
                self.service.admission.check(1, key_of(scope))
            await self._app(scope, receive, send_noted)
        except ApiError as error:
            await error.response()(scope, receive, send_noted)
        except asyncio.CancelledError:
            # The server stops and waits no longer; or the client has gone, as a proxy between us says.
            if not self.service.admission.is_draining:
                self.service.metrics.aborts.labels("disconnect").inc()
            if not status:
                draining = ApiError(503, "draining", "the server is shutting down")
                await draining.response()(scope, receive, send_noted)
        except Exception as error:
            log_failure(_log, f"request {request_id}", error)
            # Else it was answered already, or half of it was, and the connection is closed.
            if not status:
                await internal_error().response()(scope, receive, send_noted)
        finally:
            self.service.metrics.requests.labels(str(status)).inc()
            method, path = "HEAD" if is_head else known_method(scope["method"]), _route_of(scope)
            milliseconds = (time.monotonic() - started) * 1000
            _log.info("%s %s %s %.1f ms id=%s", method, path, status, milliseconds, request_id)

    def _check(self, scope: Scope) -> None:
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        line = len(scope["method"]) + len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
        size = line + sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._settings.num_headers or size > self._settings.max_headers:
            raise ApiError(
                431,
                "headers_too_large",
                f"there are {len(headers)} headers, {size} bytes with the request line; the limits are "
                f"{self._settings.num_headers} and {self._settings.max_headers}",
                headers={"Connection": "close"},
            )
        self._check_host(headers)
        self._check_key(scope, headers)

    def _check_host(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """A page of a stranger can make a browser ask a loopback server, under a name that the stranger chose."""
        hosts = [value for name, value in headers if name == b"host"]
        if self._host_names is not None and (len(hosts) != 1 or host_name(hosts[0]) not in self._host_names):
            raise ApiError(
                403,
                "host_not_allowed",
                "the Host header does not name this server; use localhost, or start the server with --allowed-host",
            )

    def _check_key(self, scope: Scope, headers: Sequence[tuple[bytes, bytes]]) -> None:
        scope[_KEY] = ""
        if not self._keys or is_one_of(self._open_paths, scope):
            return
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        digest = sha256(key.strip()).digest()
        # Every key is compared, and each comparison takes the same time wherever they differ and however long they are.
        matches = [hmac.compare_digest(digest, own) for own in self._keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise ApiError(
                401,
                "invalid_api_key",
                "send the key as one header, Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope[_KEY] = digest.hex()[:16]


def is_one_of(paths: Set[str], scope: Scope) -> bool:
    """Whether a request is for one of these paths: decided from the path as it was sent, nothing decoded."""
    path = scope["path"]
    raw = scope.get("raw_path")
    return path in paths and (raw is None or raw.partition(b"?")[0] == path.encode())


def key_of(scope: Scope) -> str:
    """Which key a request came with, as a name that gives nothing away; empty if none was needed."""
    name: str = scope.get(_KEY, "")
    return name


def host_name(value: bytes) -> str | None:
    """The name in a Host header without its port, lower case; None if it is malformed."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", value.decode("latin-1").lower())
    return match[1].strip("[]") if match else None


def _route_of(scope: Scope) -> str:
    """The path of the route that was found, which is ours, not the path that was asked for."""
    if is_one_of(QUEUED, scope):
        return str(scope["path"])
    path: str = getattr(scope.get("route"), "path", "-")
    return path
