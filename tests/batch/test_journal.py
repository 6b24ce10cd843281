"""The journal: whatever it is cut at or refused, what was whole is there and what comes next is too."""

from __future__ import annotations

import errno
import os
from array import array
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surelock.batch import journal as journal_module
from surelock.batch.journal import RECORDS_PER_SYNC, Journal, decode, drop_failed, encode
from surelock.batch.records import Record
from surelock.errors import JobError
from tests.batch.jobs import record

ROWS = 8
DIGESTS = array("Q", [0] * ROWS)
texts = st.lists(st.text(), min_size=1, max_size=ROWS)


def numbers(journal: Journal) -> list[int]:
    return [each.number for each in journal.records()]


def fill(path: Path, records: list[Record]) -> bytes:
    with Journal(path, DIGESTS) as journal:
        for each in records:
            journal.append(each)
    return path.read_bytes()


@given(text=st.text(), number=st.integers(1, 2**40), failed=st.booleans())
def test_a_record_survives_its_line(text: str, number: int, failed: bool) -> None:
    original = record(number, failed=failed, text=text)
    assert decode(encode(original)) == original


@settings(max_examples=50)
@given(texts=texts, data=st.data())
def test_cut_at_any_byte(texts: list[str], data: st.DataObject) -> None:
    records = [record(number, text=text) for number, text in enumerate(texts, start=1)]
    ends = [sum(len(encode(each)) for each in records[:count]) for count in range(len(records) + 1)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        whole = fill(path, records)
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        with Journal(path, DIGESTS) as journal:
            kept = sum(end <= cut for end in ends) - 1
            assert numbers(journal) == [each.number for each in records[:kept]]
            assert journal.num_bytes_dropped == cut - ends[kept]
            for each in records:
                journal.append(each)
        assert path.read_bytes() == whole


@settings(max_examples=50)
@given(texts=texts, data=st.data())
def test_one_damaged_byte_never_gives_a_wrong_record(texts: list[str], data: st.DataObject) -> None:
    records = [record(number, text=text) for number, text in enumerate(texts, start=1)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        whole = bytearray(fill(path, records))
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole)
        with Journal(path, DIGESTS) as journal:
            kept = list(journal.records())
            assert kept == records[: len(kept)]
            assert len(kept) < len(records)


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"garbage\n", b"00000000 0 \n", b"\n", b"00000000 " + b"9" * 5000])
def test_whatever_follows_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "rows"
    whole = fill(path, [record(1), record(2)])
    path.write_bytes(whole + tail)
    with Journal(path, DIGESTS) as journal:
        assert journal.num_bytes_dropped == len(tail)
        assert numbers(journal) == [1, 2]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        (None, "no record of this version at byte 75"),
        ({}, "(number: Field required)"),
        ({"number": None}, "(number: "),
        ({"number": "2"}, "(number: "),
        ({"digest": 1.5}, "(digest: "),
        ({"failed": 0}, "(failed: "),
        ({"num_tokens": True}, "(num_tokens: "),
        ({"flops": None}, "(flops: "),
        ({"flops": [1.0]}, "(flops.1: "),
        ({"flops": [None, 1.0]}, "(flops.0: "),
        ({"line": []}, "(line: "),
        ({"more": 1}, "(more: "),
    ],
)
def test_a_whole_line_that_is_no_record_is_said_to_be_one(
    tmp_path: Path, values: dict[str, Any] | None, fragment: str
) -> None:
    """Edited by hand, or another version's: nothing that follows may be cut off for it."""
    path = tmp_path / "rows"
    whole = fill(path, [record(1)])
    payload = orjson.dumps(asdict(record(2)) | values if values else values)
    path.write_bytes(whole + b"%08x %d %b\n" % (crc32(payload), len(payload), payload) + encode(record(3)))
    before = path.read_bytes()
    for reading in (lambda: Journal(path, DIGESTS), lambda: drop_failed(path)):
        with pytest.raises(JobError) as caught:
            reading()
        assert fragment.replace("75", str(len(whole))) in str(caught.value)
        assert "start over with --force-new" in str(caught.value)
        assert path.read_bytes() == before


def test_one_record_for_each_row_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    first = record(3, text="first")
    fill(path, [first, record(1), record(3, text="second")])
    # A second one that is there all the same: two processes without a lock, say.
    path.write_bytes(path.read_bytes() + encode(record(3, text="third")))
    with Journal(path, DIGESTS) as journal:
        assert list(journal.records()) == [record(1), first]
        assert (journal.totals.num_done, journal.num_left) == (2, ROWS - 2)
        assert 3 in journal
        assert 2 not in journal


def test_records_of_other_rows_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"".join(map(encode, [record(ROWS + 1), record(0), record(2, digest=9), record(4)])))
    with Journal(path, DIGESTS) as journal:
        assert numbers(journal) == [4]
        assert journal.num_bytes_dropped == 0


def test_totals_are_the_same_after_opening_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "rows", DIGESTS) as journal:
        journal.append(record(1))
        journal.append(record(2, failed=True))
        totals = journal.totals
    assert (totals.num_done, totals.num_failed, totals.num_tokens, totals.saved) == (2, 1, 6, 0.5)
    with Journal(tmp_path / "rows", DIGESTS) as journal:
        assert journal.totals == totals


def test_failed_rows_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    fill(path, [record(1), record(2, failed=True), record(3)])
    drop_failed(path)
    with Journal(path, DIGESTS) as journal:
        assert numbers(journal) == [1, 3]


def test_a_full_disk_leaves_what_was_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a record gets onto the disk, then nothing more."""
    path, write, room = tmp_path / "rows", os.pwrite, [len(encode(record(1))) + 20]

    def limited_write(descriptor: int, content: memoryview, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        num = write(descriptor, content[: room[0]], offset)
        room[0] -= num
        return num

    monkeypatch.setattr(os, "pwrite", limited_write)
    with Journal(path, DIGESTS) as journal:
        journal.append(record(1))
        with pytest.raises(
            JobError, match=r"rows cannot be written: No space left on device; 1 rows are done and kept"
        ):
            journal.append(record(2))
        assert path.read_bytes() == encode(record(1))
        room[0] = 1000
        journal.append(record(2))
    assert path.read_bytes() == encode(record(1)) + encode(record(2))


def test_a_disk_that_fails_to_sync_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing_sync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal_module, "_sync", failing_sync)
    journal = Journal(tmp_path / "rows", DIGESTS)
    journal.append(record(1))
    with pytest.raises(JobError, match="Input/output error"), journal:
        pass


def test_syncs_come_by_count_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(journal_module, "_sync", calls.append)
    now = [0.0]
    monkeypatch.setattr(journal_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Journal(tmp_path / "rows", array("Q", [0] * 200)) as journal:
        for number in range(1, 2 * RECORDS_PER_SYNC + 1):
            journal.append(record(number))
        assert len(calls) == 2
        now[0] = 1.5
        journal.append(record(2 * RECORDS_PER_SYNC + 1))
        assert len(calls) == 3
    assert len(calls) == 3


def test_a_journal_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be opened"):
        Journal(tmp_path, DIGESTS)
