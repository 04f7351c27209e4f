"""The proofs by which a producer recognizes blocks and files that it hashed itself.

An acknowledgement names the SHA-256 that is stored. It does not prove that this is the content of
the source: anyone who may write to the topics can read or guess a file's id, times and name. So a
producer adds a proof to each block and each complete file: a keyed digest (HMAC) of its id, its
content, and the inode and the status change time of the source. The key stays on the producer's
machine. With a valid proof, an unchanged file needs no reading. The inode is needed as well as the
time, because files written within one tick of the file system's clock have the same time.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
import tempfile

from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from streamapp.protocol.frames import PROOF_BYTES


if TYPE_CHECKING:
    from streamapp.producer.sources.scan import SourceFile

KEY_BYTES: Final = 32
KEY_FILE: Final = "producer.key"
_ROOT: Final = 0
_OTHERS: Final = 0o077


class Prover:
    """Makes proofs with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of_block(self, file_id: str, block: int, source: SourceFile, sha256: bytes) -> bytes:
        """Return the proof that *block* of *source* has *sha256*; empty if the file is fresh."""
        return self._proof(source, "block", file_id, block, sha256.hex())

    def of_file(self, file_id: str, source: SourceFile, digest: str) -> bytes:
        """Return the proof that *source* has the file *digest*; empty if the file is fresh."""
        return self._proof(source, "file", file_id, digest)

    def _proof(self, source: SourceFile, *fields: object) -> bytes:
        if source.is_fresh:
            return b""  # a change after the scan might leave the times the same
        # The separator is unambiguous: no field contains a space.
        *first, content = fields
        text = " ".join(map(str, (*first, *_state(source), content))).encode()
        return hmac.digest(self._key, text, "sha256")[:PROOF_BYTES]


def _state(source: SourceFile) -> tuple[int, int | None]:
    """Return what changes when *source* is written or replaced.

    The device is left out: its number may change at each start of the machine.
    """
    return source.inode, source.ctime_ns


def load_prover(state_dir: Path | None) -> tuple[Prover, str]:
    """Return the prover with the key in *state_dir*, and a warning if no key can be stored there.

    Without *state_dir*, the key is in the folder that the system has for data of this user. With a
    warning, the key is new and is not stored, so later runs read and compare what is delivered.
    """
    user_data = Path(platformdirs.user_data_dir("streamapp", appauthor=False))
    folder = state_dir or user_data / "producer"
    try:
        return Prover(own_key(folder)), ""
    except OSError as error:
        warning = (
            f"no key can be kept in {folder} ({error}): later runs read what is "
            "delivered once more, to compare it; --state-dir names another folder"
        )
        return Prover(secrets.token_bytes(KEY_BYTES)), warning


def own_key(folder: Path) -> bytes:
    """Return the key in *folder*; make one if there is none.

    Raises:
        OSError: the key can be neither read nor made, or other users may read it.
    """
    path = folder / KEY_FILE
    if (key := _read(path)) is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
        key = _read(path)
    if key is None:
        message = f"{path} is no key: remove it, and a new one is made"
        raise OSError(message)
    return key


def _read(path: Path) -> bytes | None:
    try:
        # Without O_NONBLOCK, opening a pipe of this name would block.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        _check(path, os.fstat(fd))
        return file.read(KEY_BYTES)


def _check(path: Path, found: os.stat_result) -> None:
    """Raise OSError unless this is a key that no other user can read: a reader could forge."""
    mode = stat.S_IMODE(found.st_mode)
    wrong = ""
    if not stat.S_ISREG(found.st_mode):
        wrong = "is no file"
    elif found.st_size != KEY_BYTES:
        wrong = f"has {found.st_size} bytes, expected {KEY_BYTES}"
    elif hasattr(os, "geteuid") and found.st_uid not in {os.geteuid(), _ROOT}:
        wrong = f"belongs to user {found.st_uid}, expected {os.geteuid()}"
    elif hasattr(os, "geteuid") and mode & _OTHERS:
        wrong = f"has mode {mode:04o}, expected 0600: others may know it"
    if wrong:
        message = f"{path} {wrong}: remove it, and a new one is made"
        raise OSError(message)


def _make(path: Path) -> None:
    """Write a new key atomically; the key of a producer that was faster stays."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=KEY_FILE)  # mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            Path(path).hardlink_to(temporary)
    finally:
        Path(temporary).unlink()
