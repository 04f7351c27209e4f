"""Tests of `streamapp.integrity`."""
