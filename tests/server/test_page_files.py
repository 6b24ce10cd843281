"""The seam for the page: `/` and `/page/NAME`, and nothing of other routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from surelock import LLM
from tests.server.running import running
from tests.server.test_requests import envelope


def test_the_page_and_its_files(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><script type=module src=page/main.js></script>")
    (tmp_path / "main.js").write_text("export {}")
    (tmp_path.parent / "secret").write_text("secret")
    monkeypatch.setattr("surelock.server.page_files.PAGE", tmp_path)
    with running(llm) as server:
        page = server.client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        script = server.client.get("/page/main.js")
        assert script.text == "export {}"
        assert "javascript" in script.headers["content-type"]
        for path in ("/page/nothing.js", "/page/", "/page/../secret", "/page/..%2fsecret", "/main.js"):
            envelope(server.client.get(path), 404)
        envelope(server.client.get("/v1/completions"), 405)
        envelope(server.post("/nothing"), 404)
    with running(llm, api_keys=("correct-horse-battery",)) as server:
        del server.client.headers["Authorization"]
        envelope(server.client.get("/"), 401)
        envelope(server.client.get("/page/main.js"), 401)
