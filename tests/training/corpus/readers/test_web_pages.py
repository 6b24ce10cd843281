from __future__ import annotations

from pathlib import Path

from tests.training.corpus.packages import write_package
from training.corpus.document import Document
from training.corpus.readers.web_pages import page_paragraphs, web_pages

FIRST = "The first paragraph of a page says what the page is about."
SECOND = "The second paragraph of a page says it again in other words."
PAGE = f"""<html><head><title>{FIRST}</title></head><body><nav><p>{FIRST}</p></nav><main>
<h1>Heading that is long enough to be a paragraph but is none</h1>
<p>The first <b>paragraph</b> of a page
says what the page is about.</p><pre>{FIRST}</pre>
<table><tr><td>{FIRST}</td></tr></table><ul><li>{SECOND}</li><li>Short item.</li></ul></main>
<footer>{FIRST}</footer></body></html>"""


def test_paragraphs_without_menus_code_tables_and_headings() -> None:
    assert page_paragraphs(PAGE) == [FIRST, SECOND]


def test_only_the_body_is_read_where_it_is_found() -> None:
    page = f"<div><p>{FIRST}</p></div><main><p>{SECOND}</p></main>"
    assert page_paragraphs(page, "<main>(.*?)</main>") == [SECOND]
    assert page_paragraphs(page, "<article>(.*?)</article>") == [FIRST, SECOND]


def test_pages_of_some_paragraphs(tmp_path: Path) -> None:
    path = write_package(
        tmp_path / "p.deb",
        {
            "./usr/share/doc/manual/html/a.html": PAGE.encode(),
            "./usr/share/doc/manual/html/b.html": f"<p>{FIRST}".encode(),
            "./usr/share/help/C/c.page": f"<page><p>{FIRST}</p><desc>{FIRST}</desc><p>{SECOND}</p></page>".encode(),
            "./usr/share/doc/manual/copyright": PAGE.encode(),
        },
    )
    assert list(web_pages(r"\.(html|page)$", min_paragraphs=2)(path)) == [
        Document("manual/html/a.html", [FIRST, SECOND]),
        Document("usr/share/help/C/c.page", [FIRST, SECOND]),
    ]
