"""What these tests share: the application, how hypothesis runs, and a partition with its worker."""

import pytest

from streamapp.store import BlockStore
from tests.application import faust_app, tables
from tests.fakes import FakeClock, FakeContext
from tests.unit.receivers import Partition


__all__ = ["faust_app", "tables"]


@pytest.fixture
def clock():
    """The receivers' clock, which stands still until it is moved."""
    return FakeClock()


@pytest.fixture
def store(tmp_path):
    """The data folder of a worker; nothing may be written beside it."""
    store = BlockStore([tmp_path / "data"], min_free=0)
    store.open()
    yield store
    store.close()
    assert ["data"] == [path.name for path in tmp_path.iterdir()]


@pytest.fixture
async def context(store, clock):
    """A worker."""
    return FakeContext(store, clock=clock)


@pytest.fixture
async def partition(context):
    """A partition that the worker reads."""
    return Partition(context)
