"""The demo's folder: marked as its own, so that it clears nothing that it did not make."""

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
"""How often the sent bytes lie on disk beside the source: in Kafka and on the machines."""


class Workspace:
    """Where the demo keeps its source, its broker and its machines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.broker = folder / "broker"
        self.machines = folder / "machines"

    def clear(self) -> None:
        """Make the folder, or clear what an earlier demo left in it.

        Raises:
            SettingsError: it holds something that is not the demo's.
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
        """See that Kafka and the machines have room for *data*.

        Raises:
            StoreFullError: they do not.
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
