"""A disk that fails at chosen calls, and loses what was not fsynced.

The model is harsher than any file system: a name is durable only when its folder was fsynced
after it was given, bytes only when their file was; and what a failed fsync could not write is
lost for good, however often fsync is called again.
"""

import errno
import os
import stat

from pathlib import Path


class Crash(BaseException):
    """The process died here: nothing it does from now on has any effect."""


class Disk:
    """Watches what is done below *top*; `fault` decides for each call whether it fails."""

    def __init__(self, top, monkeypatch):
        self.top = top
        self.calls = []
        self.fault = lambda _number, _kind, _name: None
        self.is_dead = False
        self._names = {}  # folder's inode -> {name: inode}, what would be there after a power cut
        self._pending = {}  # folder's inode -> [(name, inode)], what the next fsync makes durable
        self._content = {}  # file's inode -> bytes, the same
        self._poisoned = set()  # inodes of files whose fsync failed
        self._real = {
            name: getattr(os, name)
            for name in ("mkdir", "rmdir", "rename", "unlink", "pwrite", "fsync", "open")
        }
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, name))

    @property
    def kinds(self):
        """The kinds of all calls, in order."""
        return [kind for kind, _ in self.calls]

    def fail_at(self, number, error=errno.EIO, *, kinds=(), on=False):
        """Let call *number* (of *kinds*) fail, and with *on* all later ones too."""
        seen = 0

        def fault(_number, kind, _name):
            nonlocal seen
            if kinds and kind not in kinds:
                return None
            seen += 1
            if seen == number or (on and seen > number):
                return Crash() if error is Crash else OSError(error, os.strerror(error))
            return None

        self.fault = fault

    def heal(self):
        """Let nothing fail any more; a process that died is started again."""
        self.is_dead = False
        self.fault = lambda _number, _kind, _name: None

    def after_power_loss(self):
        """Return what would be on the disk: relative paths, with the bytes of files."""
        found = {}

        def walk(inode, path):
            for name, child in self._names.get(inode, {}).items():
                if child in self._names:
                    walk(child, f"{path}{name}/")
                else:
                    found[f"{path}{name}"] = self._content.get(child, b"")

        walk(self.top.stat().st_ino, "")
        return found

    def mkdir(self, path, mode=0o777, *, dir_fd=None):
        """As `os.mkdir`."""
        self._meet("mkdir", path)
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        self._named(path, dir_fd, is_new=True)

    def rmdir(self, path, *, dir_fd=None):
        """As `os.rmdir`."""
        self._meet("rmdir", path)
        self._real["rmdir"](path, dir_fd=dir_fd)
        self._named(path, dir_fd)

    def rename(self, src, dst, *, src_dir_fd=None, dst_dir_fd=None):
        """As `os.rename`."""
        self._meet("rename", dst)
        self._real["rename"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._named(src, src_dir_fd)
        self._named(dst, dst_dir_fd)

    def unlink(self, path, *, dir_fd=None):
        """As `os.unlink`."""
        self._meet("unlink", path)
        self._real["unlink"](path, dir_fd=dir_fd)
        self._named(path, dir_fd)

    def pwrite(self, fd, data, offset):
        """As `os.pwrite`."""
        self._meet("write", fd)
        return self._real["pwrite"](fd, data, offset)

    def open(self, path, flags, mode=0o777, *, dir_fd=None):
        """As `os.open`; only what makes a file can fail."""
        if not flags & os.O_EXCL:
            return self._real["open"](path, flags, mode, dir_fd=dir_fd)
        self._meet("create", path)
        fd = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        self._named(path, dir_fd, is_new=True)
        return fd

    def fsync(self, fd):
        """As `os.fsync`, but nothing reaches the real disk: the model is what counts."""
        found = os.fstat(fd)
        inode, is_folder = found.st_ino, stat.S_ISDIR(found.st_mode)
        try:
            self._meet("fsync", fd)
        except OSError:
            self._poisoned.add(inode)
            self._pending.pop(inode, None)
            raise
        if is_folder:
            for name, child in self._pending.pop(inode, ()):
                self._names.setdefault(inode, {}).pop(name, None)
                if child is not None:
                    self._names[inode][name] = child
        elif inode not in self._poisoned:
            self._content[inode] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def _meet(self, kind, what):
        is_fd = isinstance(what, int)
        name = Path(f"/proc/self/fd/{what}").readlink() if is_fd else Path(what)
        if self.is_dead:
            raise Crash
        self.calls.append((kind, name.name))
        error = self.fault(len(self.calls), kind, name.name)
        if error is not None:
            self.is_dead = isinstance(error, Crash)
            raise error

    def _named(self, path, dir_fd, *, is_new=False):
        path = Path(path)
        folder = os.fstat(dir_fd) if dir_fd is not None else path.parent.stat()
        try:
            found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is not None and is_new:  # perhaps an inode that was used before
            self._poisoned.discard(found.st_ino)
            self._content.pop(found.st_ino, None)
            self._names.pop(found.st_ino, None)
            if stat.S_ISDIR(found.st_mode):
                self._names[found.st_ino] = {}
        entry = (path.name, found.st_ino if found is not None else None)
        self._pending.setdefault(folder.st_ino, []).append(entry)
