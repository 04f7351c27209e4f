"""Moves and processes files of any size across machines through Apache Kafka, losing nothing."""

from __future__ import annotations

from typing import Final


__version__: Final = "0.1.0"
