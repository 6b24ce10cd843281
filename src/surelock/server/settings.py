"""`ServerSettings`: limits, keys and addresses of one server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from surelock.errors import ParameterError, shown

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_KEY_LENGTH: Final = 8
MAX_KEY_LENGTH: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What is fixed for the life of a server. Times are seconds, sizes bytes.

    Args:
        host, port: to listen at. A host that is not loopback needs a key and `public`.
        public: be reachable from other machines.
        api_keys: each opens every route. None at all: no route needs one.
        allowed_hosts: names that a request's Host may have, besides those of the loopback interface. On a public host
            an empty list accepts any.
        served_model: name of the model in answers; None: its own.
        max_waiting: requests (choices) that may wait for their turn before others are refused.
        max_per_key: choices that one key may have waiting and running together; None: no limit.
        max_choices: choices of one HTTP request: its `n` times its prompts.
        max_body, max_headers, num_headers: sizes of a request's body and headers, and how many headers it may have.
        max_connections: open at the same time.
        header_timeout, body_timeout, write_timeout: for a client to send its headers, its body, to take what is sent.
        keep_alive: an idle connection is closed after it.
        max_timeout: limit of a request's `timeout`, and its default.
        stall_timeout: silence of the engine's thread after which the server is not ready.
        hang_timeout: silence after which the process ends with an error, for a supervisor to start a new one.
        drain_timeout: running requests may take so long to end after SIGTERM.
        ping_interval: between comments in a quiet stream.

    Raises:
        ParameterError: a value is out of its limits, or the host is public and there is no key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    public: bool = False
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    served_model: str | None = None
    max_waiting: int = 256
    max_per_key: int | None = None
    max_choices: int = 64
    max_body: int = 2 << 20
    max_headers: int = 32 << 10
    num_headers: int = 100
    max_connections: int = 1024
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    write_timeout: float = 60.0
    keep_alive: float = 15.0
    max_timeout: float = 600.0
    stall_timeout: float = 60.0
    hang_timeout: float = 600.0
    drain_timeout: float = 60.0
    ping_interval: float = 15.0

    def __post_init__(self) -> None:
        for name, low, high in _INTEGERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ParameterError(f"{name} is {shown(value)}; it must be an integer from {low} to {high}")
        if self.max_per_key is not None and not 1 <= self.max_per_key <= 1 << 20:
            raise ParameterError(f"max_per_key is {shown(self.max_per_key)}; it must be at least 1, or None")
        for name in _SECONDS:
            value = getattr(self, name)
            # NaN fails every comparison.
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86400:
                raise ParameterError(f"{name} is {shown(value)}; it must be a number of seconds above 0, up to 86400")
        for key in self.api_keys:
            self._check_key(key)
        if not self.is_loopback and not self.public:
            raise ParameterError(
                f"host is {shown(self.host)}, which other machines can reach: add --public and a key, or use 127.0.0.1"
            )
        if (self.public or not self.is_loopback) and not self.api_keys:
            raise ParameterError(
                "public is set and there is no key: anybody could use the model; pass --api-key-file, or set the "
                "environment variable SURELOCK_API_KEY"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> frozenset[str] | None:
        """Names a Host header may have, lower case; None: any."""
        if not self.is_loopback and not self.allowed_hosts:
            return None
        return LOOPBACK_NAMES | {self.host.lower()} | {name.lower() for name in self.allowed_hosts}

    @staticmethod
    def _check_key(key: object) -> None:
        is_sound = isinstance(key, str) and key.isascii() and key.isprintable() and " " not in key
        if not is_sound or not MIN_KEY_LENGTH <= len(str(key)) <= MAX_KEY_LENGTH:
            # Never the key itself: this line is printed and logged.
            raise ParameterError(
                f"a key in api_keys is unusable; a key is {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} printable ASCII "
                "characters without spaces"
            )


_INTEGERS: Final = (
    ("port", 0, 65535),
    ("max_waiting", 1, 1 << 20),
    ("max_choices", 1, 1 << 16),
    ("max_body", 1 << 10, 1 << 30),
    ("max_headers", 1 << 10, 1 << 20),
    ("num_headers", 8, 10_000),
    ("max_connections", 1, 1 << 16),
)
_SECONDS: Final = (
    "header_timeout",
    "body_timeout",
    "write_timeout",
    "keep_alive",
    "max_timeout",
    "stall_timeout",
    "hang_timeout",
    "drain_timeout",
    "ping_interval",
)
