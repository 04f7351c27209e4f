"""Tests of `streamapp.tables.web`."""
