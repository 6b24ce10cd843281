"""The report: one page that needs nothing else, whatever lies in the folder."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from surelock.cli.main import app
from surelock.experiments import report, style
from surelock.experiments.registry import experiments
from tests.cli.conftest import assert_one_line_error
from tests.experiments.conftest import Ran


def bind(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False)


class Page(HTMLParser):
    """Ids and references of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data") and value:
                self.references.append(value)


@pytest.fixture
def folder(ran: Ran, tmp_path: Path) -> Path:
    """A copy of two results that a test may damage."""
    for name in ("1_flops_table", "6_thresholds"):
        shutil.copytree(ran.folder / name, tmp_path / name)
    return tmp_path


def test_the_page_of_all_experiments_needs_nothing_else(ran: Ran) -> None:
    text = (ran.folder / "report.html").read_text()
    page = Page(text)
    assert not [each for each in page.references if not each.startswith(("#", "data:image/png;base64,"))]
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert "script" not in page.tags
    assert len(text.encode()) < report.MAX_BYTES
    for each in experiments():
        assert f"{each.title}</h2>" in text
    # A reference finds its one target.
    assert len(page.ids) == len(set(page.ids))
    assert {each[1:] for each in page.references if each.startswith("#")} <= set(page.ids)


def test_every_number_of_the_tables_is_on_the_page(ran: Ran) -> None:
    text = (ran.folder / "report.html").read_text()
    (own,) = [each for each in experiments() if each.number == "6"]
    written = json.loads((ran.folder / own.folder / f"{own.name}.json").read_text())
    for row in written["tables"][0]["rows"]:
        assert f">{row['gen_ppl']:.3f}</td>" in text
    for line in [*written["findings"], *written["left_out"]]:
        assert line.replace("'", "&#39;") in text


def test_colours_follow_the_page(ran: Ran) -> None:
    text = (ran.folder / "report.html").read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawings
    assert not [colour for colour in (style.INK, style.PAGE, style.BLUE) if colour in drawings]


def test_bind_again_elsewhere(folder: Path) -> None:
    out = folder / "page.html"
    result = bind(str(folder), "--out", str(out))
    assert result.exit_code == 0
    assert "flops_table, thresholds" in result.stderr
    assert "Thresholds from" in out.read_text()


def test_text_of_a_result_is_never_markup(folder: Path) -> None:
    path = folder / "1_flops_table" / "flops_table.json"
    content = json.loads(path.read_text())
    content["title"] = content["facts"]["model"] = "<script>alert(1)</script>"
    content["findings"] = ["</li><img src=x onerror=alert(1)>"]
    content["pictures"][0]["caption"] = '"><script>alert(1)</script>'
    path.write_text(json.dumps(content))
    assert bind(str(folder)).exit_code == 0
    page = Page((folder / "report.html").read_text())
    assert "script" not in page.tags
    assert not [each for each in page.references if not each.startswith(("#", "data:image/png"))]


@pytest.mark.parametrize(
    "hostile",
    ["<script>1</script>", '<g onload="1"/>', '<a href="https://x.y"/>', "<style>@import 'x'</style>", "<image/>"],
)
def test_a_drawing_that_could_act_is_shown_as_pixels(folder: Path, hostile: str) -> None:
    svg = folder / "1_flops_table" / "flops_table.svg"
    svg.write_text(svg.read_text().replace("</svg>", f"{hostile}</svg>"))
    assert bind(str(folder)).exit_code == 0
    text = (folder / "report.html").read_text()
    assert hostile not in text
    assert 'src="data:image/png;base64,' in text


def test_a_picture_outside_the_folder_is_not_read(folder: Path) -> None:
    (folder / "secret.png").write_bytes(b"\x89PNG secret")
    path = folder / "1_flops_table" / "flops_table.json"
    content = json.loads(path.read_text())
    content["pictures"][0]["name"] = "../secret"
    path.write_text(json.dumps(content))
    assert_one_line_error(bind(str(folder)), "lacks the picture secret.png")


def test_mistakes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_one_line_error(bind(str(tmp_path / "missing")), "is not a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "other.json").write_text('{"benchmark": "latency"}')
    assert_one_line_error(bind(str(empty)), "holds no result of surelock experiment")
    assert_one_line_error(bind(str(folder), "--out", str(folder / "no" / "page.html")), "cannot be written")
    monkeypatch.setattr(report, "MAX_BYTES", 1000)
    assert_one_line_error(bind(str(folder)), "the limit is 1000")
    monkeypatch.undo()
    path = folder / "1_flops_table" / "flops_table.json"
    path.write_text(path.read_text().replace('"method"', '"nothing"'))
    assert_one_line_error(bind(str(folder)), "is not a whole result")
    path.write_text("{")
    assert_one_line_error(bind(str(folder)), "cannot be read as JSON")
