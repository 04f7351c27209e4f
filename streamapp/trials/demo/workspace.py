"""The demo's folder. A mark in it shows that the demo made it and may clear it."""

from __future__ import annotations

import shutil

from typing import TYPE_CHECKING, Final

from streamapp.broker import Cluster
from streamapp.errors import SettingsError, StoreFullError
from streamapp.units import GIB, format_size


if TYPE_CHECKING:
    from pathlib import Path

_MARK: Final = ".streamapp-demo"
_COPIES: Final = 2
"""Copies of the sent bytes beside the source: in Kafka and on the machines."""


class Workspace:
    """The folders of the demo's source, broker and machines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.broker = folder / "broker"
        self.machines = folder / "machines"

    def clear(self) -> None:
        """Make the folder, or clear the files of an earlier demo.

        Raises:
            SettingsError: the folder has other files.
        """
        mark = self.folder / _MARK
        if self.folder.exists() and any(self.folder.iterdir()) and not mark.exists():
            message = f"{self.folder} is not empty and not the demo's: give another with --folder"
            raise SettingsError(message)
        if self.broker.exists():
            Cluster(self.broker).stop()
        for part in (self.source, self.broker, self.machines):
            shutil.rmtree(part, ignore_errors=True)
        self.machines.mkdir(parents=True)
        mark.touch()

    def check_room(self, data: Path) -> None:
        """Check that the disk has room for *data* in Kafka and on the machines.

        Raises:
            StoreFullError: it has not.
        """
        size = sum(path.lstat().st_size for path in data.rglob("*") if path.is_file())
        need = _COPIES * size + GIB
        free = shutil.disk_usage(self.folder).free
        if free < need:
            message = (
                f"disk full: the demo needs {format_size(need)} in {self.folder}, "
                f"{format_size(free)} are free: give another place with --folder"
            )
            raise StoreFullError(message)
