"""The web views: how a worker is addressed, who may ask, and which port is taken."""
