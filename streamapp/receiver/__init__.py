"""Receives frames and persists blocks; imports neither Faust nor a Kafka client."""
