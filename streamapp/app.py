"""The Faust application object and nothing else: `faust -A streamapp.app worker`.

Agents, tables and views import `app`; this module imports none of them.
"""

from __future__ import annotations

from streamapp.click_errors import ReportedError
from streamapp.errors import SettingsError
from streamapp.settings import Settings
from streamapp.worker import outputs
from streamapp.worker.application import create_app


outputs.open_missing()  # before Faust opens an event loop
try:
    settings = Settings.load()
except SettingsError as error:
    # `faust` has no handler for our errors: this one is shown in one line.
    raise ReportedError(error) from error
app = create_app(settings)
