"""What these tests share: the application, how hypothesis runs, and a data folder."""

import contextlib

import pytest

from streamapp.store.data_folder import DataFolder
from tests.application import faust_app, tables


__all__ = ["faust_app", "tables"]


@pytest.fixture
def open_root(tmp_path):
    """Opens the data folder as a worker that starts; gives all back at the end."""
    with contextlib.ExitStack() as stack:

        def open_(path=None, *, min_free=0):
            root = DataFolder(path or tmp_path / "data", min_free=min_free)
            root.open()
            stack.callback(root.close)
            return root

        yield open_


@pytest.fixture
def root(open_root):
    """An open data folder."""
    return open_root()
