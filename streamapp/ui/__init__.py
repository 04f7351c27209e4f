"""What is shown in a terminal or as JSON lines."""
