"""Tests of `streamapp.worker`."""
