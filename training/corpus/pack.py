"""Documents on the disk: xz-compressed JSON lines."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from training.corpus.split import Entry


def pack(entries: Iterable[Entry], path: Path) -> int:
    """Write one JSON object a line, `source`, `licence`, `id` and `text`, ordered by source and id.

    The same documents give the same bytes. The file appears under its name whole or not at all.

    Returns:
        Size of the file in bytes.
    """
    lines = [json.dumps(record(entry)) + "\n" for entry in sorted(entries, key=attrgetter("source.name", "id"))]
    packed = lzma.compress("".join(lines).encode("ascii"), preset=9 | lzma.PRESET_EXTREME)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(packed)
    partial.replace(path)
    return len(packed)


def record(entry: Entry) -> dict[str, str]:
    """A document as it is written."""
    return {"source": entry.source.name, "licence": entry.source.licence, "id": entry.id, "text": entry.text}
