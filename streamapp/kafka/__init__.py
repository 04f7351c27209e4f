"""Kafka clients outside of Faust: producers, consumers, topics, groups and their errors."""
