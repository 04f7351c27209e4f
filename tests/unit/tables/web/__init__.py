"""Tests of `tables.web`."""
