"""What deploy/ names exists: metrics of the dashboard, options of the command, files of the compose file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from surelock.cli.main import app
from surelock.server.metrics import Metrics

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_the_dashboard_asks_for_metrics_there_are() -> None:
    known = set(re.findall(r"^# TYPE (\w+)", Metrics("any").text().decode(), re.MULTILINE))
    dashboard = json.loads((DEPLOY / "grafana" / "surelock.json").read_text())
    named = {
        re.sub(r"_bucket$", "", name)
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"surelock_\w+", target["expr"])
    }
    assert len(named) >= 15
    assert named <= known


def test_options_in_the_recipes_exist() -> None:
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {option for parameter in serve.params for option in parameter.opts}
    # Of docker and of the healthcheck.
    others = {"--build-arg", "--gpus", "--build", "--from", "--no-cache-dir", "--index-url", "--gid", "--uid"}
    others |= {
        "--no-create-home",
        "--no-install-recommends",
        "--home-dir",
        "--interval",
        "--timeout",
        "--start-period",
        "--retries",
    }
    for file in ("Dockerfile", "compose.yaml", "nginx.conf", "Caddyfile"):
        used = set(re.findall(r"(?<![\w-])--[a-z-]+", (DEPLOY / file).read_text()))
        assert used - others <= known, file


def test_the_image_runs_without_privileges_and_says_how_it_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.index("USER surelock") < text.index("ENTRYPOINT")
    assert "/readyz" in text


def test_mounted_files_exist() -> None:
    for path in re.findall(r"\./([\w./-]+):/", (DEPLOY / "compose.yaml").read_text()):
        assert (DEPLOY / path).exists(), path


def test_nginx_accepts_its_recipe(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if nginx is None:
        pytest.skip("there is no nginx")
    # Without a certificate, and in the words of versions that do not have them yet.
    site = re.sub(r"listen 443 ssl;|http2 on;|ssl_certificate.*;", "", (DEPLOY / "nginx.conf").read_text())
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{site}\n}}\n")
    done = subprocess.run(
        [nginx, "-t", "-e", str(tmp_path / "log"), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
