"""Measures streamapp beside Kafka's own tools, on one machine and in one run: `make bench`."""
