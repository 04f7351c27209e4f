"""Clients of Kafka outside Faust, and what they ask for."""
