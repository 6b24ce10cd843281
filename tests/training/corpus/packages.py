"""Small packages made by hand, in the formats of the registries."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile


def write_package(path: Path, files: Mapping[str, bytes]) -> Path:
    """A .whl, .tgz or .deb, by the path's suffix, of these files in this order."""
    if path.suffix == ".whl":
        with ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix == ".tgz":
        path.write_bytes(_tar(files, "w:gz"))
    else:
        parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": _tar(files, "w:xz")}
        path.write_bytes(b"!<arch>\n" + b"".join(_ar_member(name, content) for name, content in parts.items()))
    return path


def _tar(files: Mapping[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("a_link.txt")
        link.type = tarfile.SYMTYPE
        archive.addfile(link)
    return buffer.getvalue()


def _ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)
