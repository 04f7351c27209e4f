"""Parts of aiokafka that are replaced; each names its version and when to delete it."""
