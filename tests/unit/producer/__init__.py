"""Tests of `streamapp.producer`."""
