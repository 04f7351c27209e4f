"""Tests of `streamapp.store`."""
