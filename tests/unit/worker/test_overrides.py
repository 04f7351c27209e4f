"""Each override names the version of its library, and when to delete it."""

import importlib.metadata
import re

import pytest

from streamapp.worker import (
    assignor,
    changelog_table,
    consumer,
    faust_worker,
    flow_control,
    partition_agent,
)
from streamapp.worker.aiokafka_overrides import batches, fetcher, responses


OVERRIDES = [
    assignor,
    batches,
    changelog_table,
    consumer,
    faust_worker,
    fetcher,
    flow_control,
    partition_agent,
    responses,
]


@pytest.mark.parametrize("module", OVERRIDES)
def test_is_for_the_installed_version(module):
    """After an upgrade of the library, look whether the module is still needed."""
    text = " ".join(module.__doc__.split())
    versions = re.findall(r"(aiokafka|faust-streaming|mode-streaming) (\d+\.\d+\.\d+)", text)

    assert versions
    assert versions == [(name, importlib.metadata.version(name)) for name, _ in versions]
    assert "Delete when " in text
