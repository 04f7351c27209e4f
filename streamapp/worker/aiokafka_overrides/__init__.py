"""What is replaced in aiokafka, each with the reason to delete it."""
