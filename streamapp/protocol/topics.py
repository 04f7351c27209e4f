"""The topics' and tables' names, and how many partitions each has. Pure."""

from __future__ import annotations

from typing import Final

import msgspec


Place = tuple[str, int]
"""A topic and one of its partitions."""

DATA_BLOCKS: Final = "data-blocks"
STATUS: Final = "processing-status"
ACKS: Final = "block-acknowledgments"

BLOCK_PARTITIONS: Final = 6
FILE_PARTITIONS: Final = 3
"""Partitions of `ACKS`, `STATUS` and every table. They have equally many, because the records and
the row of a file are in partitions of the same number."""

FILES_TABLE: Final = "files"
BLOCK_MAP_TABLE: Final = "block_map"
MACHINES_TABLE: Final = "machines"
TABLES: Final = (FILES_TABLE, BLOCK_MAP_TABLE, MACHINES_TABLE)


class Names(msgspec.Struct, frozen=True):
    """The topics' names on the cluster."""

    data_blocks: str = DATA_BLOCKS
    status: str = STATUS
    acks: str = ACKS


PLAIN_NAMES: Final = Names()
"""The names without a prefix."""
