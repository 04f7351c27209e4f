"""Tests of `streamapp.web`."""
