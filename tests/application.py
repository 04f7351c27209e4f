"""How hypothesis runs, and the Faust application without a broker: for conftest files."""

import os
import tempfile

import pytest

from hypothesis import settings


settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")

with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
    # The settings are read when the application is imported, and must not be this machine's.
    for name in [name for name in os.environ if name.startswith("STREAMAPP_")]:
        patch.delenv(name)
    patch.chdir(folder)
    patch.setenv("STREAMAPP_MACHINE_ID", "m1")
    patch.setenv("STREAMAPP_GROUP_ID", "g1")
    patch.setenv("STREAMAPP_DATA_DIR", os.path.join(folder, "data"))  # noqa: PTH118 - a variable
    from streamapp.app import app as imported_app

imported_app.conf.store = "memory://"  # before any table asks for it


@pytest.fixture(scope="session")
def faust_app():
    """The application with its tables in memory."""
    imported_app.discover()
    imported_app.finalize()
    return imported_app


@pytest.fixture
def tables(faust_app):
    """The application's tables, empty; what is written to them goes to no changelog."""
    tables = faust_app.tables
    for table in tables.values():
        table.data.clear()
    yield tables
    for table in tables.values():
        table.data.clear()
