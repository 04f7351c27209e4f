"""Tests of `streamapp.protocol`."""
