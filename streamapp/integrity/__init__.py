"""Disks and acknowledgements are compared; what is bad is revoked, what is good acknowledged."""
