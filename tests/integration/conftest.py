"""What these tests share: the application, and how hypothesis runs."""

from tests.application import faust_app, tables


__all__ = ["faust_app", "tables"]
