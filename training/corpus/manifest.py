"""MANIFEST.md: what a built corpus holds, where it is from and under which licence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from training.corpus.fetch import Fetched
from training.corpus.sources import Source
from training.corpus.split import Entry, Split


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What became of a source; `num_read` counts the characters its reader gave."""

    source: Source
    fetched: Fetched
    num_read: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file of the corpus; sizes in bytes."""

    name: str
    num_documents: int
    size: int
    packed_size: int


def manifest(reports: Sequence[SourceReport], files: Sequence[PackedFile], num_moved: int) -> str:
    """The manifest as Markdown. It depends on nothing but its arguments: no date, no path."""
    totals = [sum(column) for column in zip(*map(_sizes, reports), strict=True)]
    attributions = {report.source.name: report.source for report in reports if report.source.attribution}
    return "\n".join(
        [
            "# Manifest of the corpus",
            "",
            "Made by `python -m training.corpus.build`. Text is ASCII; sizes are characters, before and after",
            "duplicates were left out.",
            "",
            *_table(
                ["source", "group", "licence", "package", "read", "kept", "documents", *get_args(Split), "what it is"],
                [[*_source_cells(report), *_counts(_sizes(report)), report.source.about] for report in reports]
                + [["**all**", "", "", "", *_counts(totals), ""]],
            ),
            "",
            f"Held-out documents moved to training because they overlap with it: {num_moved}.",
            "",
            "## Attribution",
            "",
            "Text under a share-alike licence, changed as the table says:",
            "",
            *(f"- `{name}`, {source.licence}: {source.attribution}" for name, source in attributions.items()),
            "",
            "## Packages",
            "",
            *_table(["file", "version", "SHA-256"], _packages(report.fetched for report in reports)),
            "",
            "## Files",
            "",
            *_table(
                ["file", "documents", "characters", "packed bytes"],
                [[file.name, *_counts([file.num_documents, file.size, file.packed_size])] for file in files],
            ),
            "",
        ]
    )


def _source_cells(report: SourceReport) -> list[str]:
    source = report.source
    return [source.name, source.group, source.licence, f"{source.package.registry} {source.package.name}"]


def _sizes(report: SourceReport) -> list[int]:
    by_split: Mapping[Split, int] = {
        split: sum(len(entry.text) for entry in report.entries if entry.split == split) for split in get_args(Split)
    }
    return [report.num_read, sum(by_split.values()), len(report.entries), *by_split.values()]


def _packages(fetched: Iterable[Fetched]) -> list[list[str]]:
    return [[file.path.name, file.version, f"`{file.sha256}`"] for file in fetched]


def _counts(numbers: Iterable[int]) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
