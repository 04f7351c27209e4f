"""The producer: delivers the files of a folder to the workers of a group."""

from streamapp.producer.events import Summary
from streamapp.producer.folder import deliver_folder


__all__ = ["Summary", "deliver_folder"]
