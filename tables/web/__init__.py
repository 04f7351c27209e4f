"""The web views: what they answer, from this worker and from the others."""
