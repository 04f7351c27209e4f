"""Tests of `streamapp.worker.aiokafka_overrides`."""
