"""Tests of `streamapp.kafka`."""
