"""Tests of `streamapp.receiver`."""
