"""Compares the files on the machines' disks with their source."""

from __future__ import annotations

import hashlib

from typing import TYPE_CHECKING

import msgspec

from rich.table import Table
from rich.text import Text

from streamapp.errors import VerificationError
from streamapp.protocol import filenames
from streamapp.protocol.filenames import printable
from streamapp.restore import assemble
from streamapp.units import format_size


if TYPE_CHECKING:
    from pathlib import Path


class ProvenFile(msgspec.Struct, frozen=True, kw_only=True):
    """A source file, and the result of its comparison."""

    name: str
    size: int
    blocks: str
    sha256: str
    verdict: str

    @property
    def agrees(self) -> bool:
        """Whether the machines have exactly the source's bytes."""
        return self.verdict == "same"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison; *surplus* names stored files that were never sent."""

    files: list[ProvenFile]
    surplus: list[str]

    @property
    def agrees(self) -> bool:
        """Whether every file is the same and there is no surplus file."""
        return bool(self.files) and all(f.agrees for f in self.files) and not self.surplus

    @property
    def bytes(self) -> int:
        """The total size of the files."""
        return sum(file.size for file in self.files)

    def table(self) -> Table:
        """Return the outcome as a table."""
        table = Table(title="Source and machines compared")
        table.add_column("file", overflow="fold")
        table.add_column("size", justify="right")
        table.add_column("blocks on each machine", justify="right")
        table.add_column("SHA-256")
        table.add_column("verdict")
        for file in self.files:
            style = "green" if file.agrees else "red"
            table.add_row(
                Text(printable(file.name)),
                format_size(file.size),
                file.blocks,
                f"{file.sha256[:16]}…",
                Text(file.verdict, style=style),
            )
        for name in self.surplus:
            table.add_row(Text(printable(name)), "", "", "", Text("was not sent", style="red"))
        return table


def compare(source: Path, roots: list[Path]) -> Outcome:
    """Compare the files below *source* with the blocks in the data folders *roots*."""
    arrived = {joined.file.name: joined for joined in assemble.collect(roots).values()}
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    files = []
    for path in paths:
        name = filenames.portable_name(path.relative_to(source).parts)
        joined = arrived.pop(name, None)
        files.append(_compare_one(name, path, joined, roots))
    return Outcome(files=files, surplus=sorted(arrived))


def _compare_one(
    name: str, path: Path, joined: assemble.JoinedFile | None, roots: list[Path]
) -> ProvenFile:
    wanted = _sha256(path)
    if joined is None:
        verdict, spread = "missing", "-"
    else:
        held = [
            sum(any(p.is_relative_to(root) for p in places) for places in joined.blocks.values())
            for root in roots
        ]
        spread = " + ".join(map(str, held))
        try:
            verdict = "same" if assemble.sha256(joined) == wanted else "differs"
        except VerificationError as error:
            verdict = str(error)
    return ProvenFile(
        name=name, size=path.stat().st_size, blocks=spread, sha256=wanted, verdict=verdict
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
