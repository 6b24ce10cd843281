"""What the documents name exists: links, files, headings, Python names, commands and their options."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
import typer

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "surelock"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
# Beside the package, whose names the other tests look up.
BESIDE = [
    ROOT / "training" / "README.md",
    ROOT / "training" / "corpus" / "README.md",
    SOURCE / "embedded" / "README.md",
]

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
URL = re.compile(r"\w+://\S+")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/(?:[\w.-]+\.(?:py|md))?")
PYTHON_NAME = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(?:\(.*\))?")


def each_document(documents: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("document", documents, ids=[str(path.relative_to(ROOT)) for path in documents])


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def code_spans(document: Path) -> list[str]:
    return CODE.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """The ids GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document([*DOCUMENTS, *BESIDE])
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if URL.match(target) or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), f"{document.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(file), f"{document.name} links to {target}; there is no such heading"


@each_document(DOCUMENTS)
def test_named_files_and_folders_exist(document: Path) -> None:
    for span in code_spans(document):
        # NAME stands for what the reader will call it.
        if PATH.fullmatch(span) and "NAME" not in span:
            homes = (ROOT, SOURCE, document.parent)
            assert any((home / span).exists() for home in homes), f"{document.name} names {span}, which does not exist"


@cache
def definitions() -> dict[str, list[str]]:
    """Modules that define each class, function and constant of the package and the studies at their top level."""
    found = defaultdict(list)
    for file in [*SOURCE.rglob("*.py"), *(ROOT / "studies").rglob("*.py")]:
        home = SOURCE.parent if file.is_relative_to(SOURCE) else ROOT
        module = ".".join(file.relative_to(home).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found[node.name].append(module)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        found[target.id].append(module)
    return found


def has_attribute(value: object, name: str) -> bool:
    if hasattr(value, name) or name in getattr(value, "__dataclass_fields__", {}):
        return True
    return inspect.isclass(value) and re.search(rf"\bself\.{name}\b.* = ", inspect.getsource(value)) is not None


def python_names(spans: list[str]) -> Iterator[str]:
    yield from (match[1] for span in spans if (match := PYTHON_NAME.fullmatch(span)))


@each_document(DOCUMENTS)
def test_dotted_python_names_resolve(document: Path) -> None:
    for name in python_names(code_spans(document)):
        first, *attributes = name.split(".")
        if first in ("surelock", "studies") and attributes:
            resolve_name(name)
        elif first in definitions() and attributes:
            values = [getattr(import_module(module), first) for module in definitions()[first]]
            assert any(has_attribute(value, attributes[0]) for value in values), f"{document.name} names {name}"


@each_document([document for document in DOCUMENTS if document.name != "README.md"])
def test_class_names_are_ours(document: Path) -> None:
    for name in python_names(code_spans(document)):
        if re.fullmatch(r"(?:[A-Z]+[a-z]\w*)+", name):
            assert name in definitions(), f"{document.name} names {name}, which the package does not define"


def test_headings_named_in_the_source_exist() -> None:
    cited = set()
    for file in sorted([*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "studies").rglob("*.py")]):
        # Across line breaks and comment signs.
        text = re.sub(r"\s*\n[\s#]*", " ", file.read_text())
        for name, heading in re.findall(r'\b(docs/\w+\.md)(?:, "([^"]+)")?', text):
            cited.add((name, heading))
    assert ("docs/algorithm.md", "Noise") in cited
    for name, heading in sorted(cited):
        assert (ROOT / name).is_file(), name
        headings = re.findall(r"^#+ (.+)$", prose(ROOT / name), re.MULTILINE)
        assert not heading or heading in headings, f"{name} has no heading {heading!r}"


def test_line_numbers_of_the_step_are_those_of_the_document() -> None:
    module = ast.get_docstring(ast.parse((SOURCE / "decoding" / "step.py").read_text())) or ""
    in_code = re.findall(r"^ +(\d+(?:-\d+)?) ", module, re.MULTILINE)
    in_document = re.findall(r"^\| (\d+(?:-\d+)?) \|", (ROOT / "docs" / "algorithm.md").read_text(), re.MULTILINE)
    assert in_code == in_document
    assert in_code


def test_named_commands_and_options_exist() -> None:
    from surelock.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    num_commands = 0
    for document in PAGES:
        fenced = "\n".join(FENCE.findall(document.read_text())).splitlines()
        for line in [text for text in [*fenced, *code_spans(document)] if text.startswith("surelock ")]:
            _, name, *rest = shlex.split(line)
            assert name in commands, f"{document.name}: surelock has no command {name}"
            command = commands[name]
            if hasattr(command, "commands") and rest and not rest[0].startswith("-"):
                assert rest[0] in command.commands, f"{document.name}: surelock {name} has no command {rest[0]}"
                command = command.commands[rest[0]]
            known = {option for parameter in command.params for option in parameter.opts}
            used = {word for word in rest if re.match(r"--?[a-z]", word)}
            assert used <= known, f"{document.name}: surelock {name} has no {', '.join(sorted(used - known))}"
            num_commands += 1
    assert num_commands


def test_named_studies_and_settings_exist() -> None:
    from studies.__main__ import find, parse_settings, parser

    num_commands = 0
    for document in [*PAGES, ROOT / "README.md"]:
        fenced = "\n".join(FENCE.findall(document.read_text())).splitlines()
        for line in [text for text in [*fenced, *code_spans(document)] if text.startswith("python -m studies ")]:
            given = parser().parse_args(shlex.split(line)[3:])
            studies = [study for name in given.names if name != "list" for study in find(name)]
            for field, _, value in (change.partition("=") for change in given.changes):
                assert any(parse_settings(study, {field: value}) for study in studies), f"{document.name}: {line}"
            num_commands += 1
    assert num_commands > 10
