from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.corpus.packages import write_package
from training.corpus.archives import member, members
from training.corpus.package import PackageError

FILES = {"./usr/b.txt": b"second", "./usr/a.txt": b"first", "./usr/a.html": b"page"}


@pytest.mark.parametrize("name", ["p.whl", "p.tgz", "p.deb"])
def test_matching_files_in_their_order(tmp_path: Path, name: str) -> None:
    path = write_package(tmp_path / name, FILES)
    assert list(members(path, r"\.txt$")) == [("./usr/b.txt", b"second"), ("./usr/a.txt", b"first")]
    assert member(path, "html") == b"page"


@pytest.mark.parametrize("pattern", ["nothing", "usr"])
def test_the_one_file_must_be_one(tmp_path: Path, pattern: str) -> None:
    path = write_package(tmp_path / "p.whl", FILES)
    with pytest.raises(PackageError, match="files that match"):
        member(path, pattern)


@pytest.mark.parametrize("name", ["p.deb", "p.rpm"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"neither")
    with pytest.raises(PackageError, match="is not a"):
        list(members(path, ""))
