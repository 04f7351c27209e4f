"""Tests of `streamapp.producer.sources`."""
