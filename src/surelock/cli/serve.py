"""`surelock serve`: the HTTP server."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from surelock.cli.loading import load_llm
from surelock.cli.options import ModelOptions, option, refuse, with_options
from surelock.errors import ParameterError

if TYPE_CHECKING:
    from surelock.config import EngineConfig
    from surelock.server.settings import ServerSettings

KEY_VARIABLE: Final = "SURELOCK_API_KEY"
NEEDED: Final = ("fastapi", "uvicorn", "prometheus_client")


@with_options("Server")
def serve(
    model: ModelOptions,
    host: Annotated[str, option("Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, option("Port; 0 takes a free one.")] = 8000,
    public: Annotated[
        bool, option("Let other machines connect; needs a key. Listens at 0.0.0.0 unless --host says otherwise.")
    ] = False,
    api_key_file: Annotated[
        Path | None, option(f"File with one key a line. Or set {KEY_VARIABLE}.", default="no key")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        option(
            "A name this server may be called by, such as that of a proxy in front; may be repeated.", metavar="<name>"
        ),
    ] = None,
    served_model: Annotated[str | None, option("Name of the model in answers.", default="its own")] = None,
    max_batch_size: Annotated[int, option("Canvases decoded together.", "Limits")] = 16,
    max_waiting: Annotated[int, option("Canvases that may wait; more are refused.", "Limits")] = 256,
    max_per_key: Annotated[int | None, option("Canvases of one key at a time.", "Limits", default="no limit")] = None,
    max_timeout: Annotated[float, option("Seconds a request may take.", "Limits")] = 600.0,
    drain_timeout: Annotated[float, option("Seconds running requests get after SIGTERM.", "Limits")] = 60.0,
    ray: Annotated[bool, option("Serve with replicas of the model behind Ray Serve.", "Ray")] = False,
    replicas: Annotated[int | None, option("Replicas.", "Ray", default="one for each GPU", min=1)] = None,
    ray_address: Annotated[
        str | None, option("A cluster: auto, local or HOST:PORT.", "Ray", default="RAY_ADDRESS, or local")
    ] = None,
) -> None:
    """Serve a model over HTTP, with OpenAI's interface.

    It listens on this machine only; for others to connect, pass --public and a key.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ParameterError(f"serve needs {missing[0]}, which is not installed: pip install 'surelock[serve]'")

    if not ray:
        unused = {"replicas": replicas is not None, "ray_address": ray_address is not None}
        refuse("has no effect without --ray: add it, or leave this out", **unused)
    from surelock.server.settings import ServerSettings

    # Before the model is loaded, which takes longer than reading a mistake.
    settings = ServerSettings(
        host="0.0.0.0" if public and host == "127.0.0.1" else host,
        port=port,
        public=public,
        api_keys=_keys(api_key_file),
        allowed_hosts=tuple(allowed_host or ()),
        served_model=served_model,
        max_waiting=max_waiting,
        max_per_key=max_per_key,
        max_timeout=max_timeout,
        drain_timeout=drain_timeout,
    )

    from surelock.config import EngineConfig

    engine_config = EngineConfig(max_batch_size=max_batch_size, num_threads=model.threads)
    if ray:
        from surelock.server.log import log_to_stderr
        from surelock.server.replicas import ReplicaOptions, serve_on_ray

        log_to_stderr()
        options = ReplicaOptions(model.for_llm(), engine_config, settings)
        raise typer.Exit(serve_on_ray(options, num_replicas=replicas, address=ray_address))

    from surelock.server.signals import stopping_while_loading

    with stopping_while_loading():
        raise typer.Exit(_serve_here(model, engine_config, settings))


def _serve_here(model: ModelOptions, engine_config: EngineConfig, settings: ServerSettings) -> int:
    """Load the model and serve it from this process until a signal; returns the exit code."""
    from surelock.server.descriptors import with_descriptors
    from surelock.server.log import log_to_stderr
    from surelock.server.prepare import tokenizer_of
    from surelock.server.run import bind
    from surelock.server.run import serve as run_server
    from surelock.server.service import Service

    with bind(settings) as listener:
        llm = load_llm(model, engine_config)
        tokenizer_of(llm)
        log_to_stderr()
        return run_server(Service(llm, with_descriptors(settings)), listener)


def _keys(file: Path | None) -> tuple[str, ...]:
    """Keys of the file, else of the environment; none if neither is there.

    Raises:
        ParameterError: the file cannot be read, or holds none.
    """
    if file is None:
        key = os.environ.get(KEY_VARIABLE, "")
        return (key,) if key else ()
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"--api-key-file {file} cannot be read: {type(error).__name__}") from error
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise ParameterError(f"--api-key-file {file} holds no key: write one a line")
    return keys
