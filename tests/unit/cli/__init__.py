"""Tests of `streamapp.cli`."""
