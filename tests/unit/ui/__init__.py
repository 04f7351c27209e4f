"""Tests of `streamapp.ui`."""
