"""The files of the page at `/`: their headers, and that they hang together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from surelock.llm import LLM
from surelock.server.page_files import PAGE, page_files
from tests.server.running import Running, running

KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def keyed(llm: LLM) -> Iterator[Running]:
    with running(llm, api_keys=(KEY,)) as server:
        server.client.headers.pop("Authorization")
        yield server


@pytest.mark.parametrize("path", sorted(page_files()))
def test_a_file_is_open_and_strict(keyed: Running, path: str) -> None:
    got = keyed.client.get(path)
    assert got.status_code == 200
    assert got.content == page_files()[path].read_bytes()
    suffix = page_files()[path].suffix
    types = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert got.headers["content-type"].partition(";")[0] == types[suffix]
    assert got.headers["x-content-type-options"] == "nosniff"
    policy = dict(rule.strip().split(" ", 1) for rule in got.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in got.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/%2f", "/page%2fmain.js"]
)
def test_nothing_else_is_open(keyed: Running, path: str) -> None:
    assert keyed.client.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/page/", "/page/index.html", "/page/..%2fapp.py", "/page/nothing.js", "/main.js"])
def test_nothing_else_is_a_file(shared: Running, path: str) -> None:
    got = shared.client.get(path)
    assert (got.status_code, got.json()["error"]["code"]) == (404, "not_found")


def test_a_file_is_read_only(shared: Running) -> None:
    assert shared.client.head("/").status_code == 200
    assert shared.client.post("/").status_code == 405
    assert shared.client.get("/v1/completions").status_code == 405


def test_the_document_names_no_page(shared: Running) -> None:
    assert not {"/", "/page/main.js"} & shared.client.get("/openapi.json").json()["paths"].keys()


def test_every_file_is_used_and_there() -> None:
    named = {"index.html"}
    for file in PAGE.iterdir():
        text = file.read_text()
        named |= set(re.findall(r'"(?:\./|page/)([a-z]+\.[a-z]+)"', text))
    assert named == {file.name for file in PAGE.iterdir()}


@pytest.mark.parametrize("file", sorted(PAGE.glob("*.[hjc]*")), ids=lambda file: file.name)
def test_no_text_becomes_markup_or_leaves(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|style=", text)
    assert set(re.findall(r"(?:https?:)?//[a-z.]+[^\s\"]*", text.replace("// ", ""))) <= {"http://www.w3.org/2000/svg"}
