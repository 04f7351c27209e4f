"""A small Faust application that appends each message to a file: stock acknowledging, or ours.

    python -m tests.faults.small_app HOW BROKERS NAME FOLDER [slow|raise]

With a fault one message goes wrong: it is never done, or raises.
"""

import asyncio
import sys

from pathlib import Path

import faust

from streamapp.agents.guard import stop_on_unforeseen
from streamapp.receiver.ledger import Ledger
from streamapp.settings import Settings
from streamapp.worker.consumer import OrderedCommitTransport
from streamapp.worker.pending_writes import PendingWrites


SLOW, RAISING = b"1", b"3"
NEVER = 3600


class SafeApp(faust.App):
    """An application with the transport of the worker, and without tables."""

    pending_writes = PendingWrites()
    settings = Settings()  # the transport asks it for the name of the blocks' topic

    def _new_transport(self):
        return OrderedCommitTransport(self.conf.broker_consumer, self)


def create_app(how, brokers, name, folder):
    """Return an application without an agent, with the worker's transport or with Faust's."""
    kind = SafeApp if how.startswith("ours") else faust.App
    return kind(
        name,
        broker=f"kafka://{brokers.split(',')[0]}",
        store="memory://",
        datadir=str(folder / "state"),
        web_enabled=False,
        value_serializer="raw",
        broker_commit_interval=0.5,
        broker_session_timeout=6,
        broker_heartbeat_interval=1,
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
    )


class Handler:
    """What is done with a message; *fault* is what goes wrong with one of them."""

    def __init__(self, folder, fault):
        self._done = folder / "done"
        self._fault = fault

    async def handle(self, value):
        """Append *value* to the file, unless it is the one that goes wrong."""
        if (self._fault, value) == ("slow", SLOW):
            await asyncio.sleep(NEVER)
        if (self._fault, value) == ("raise", RAISING):
            raise RuntimeError("this message goes wrong")
        with self._done.open("ab") as file:
            file.write(value + b"\n")

    async def stock(self, stream):
        """Handle messages as Faust's own examples do."""
        async for value in stream:
            await self.handle(value)

    async def stock_noack(self, stream):
        """Acknowledge by hand what is done."""
        async for event in stream.noack().events():
            await self.handle(event.value)
            event.ack()

    async def ours(self, stream):
        """Acknowledge through the ledger, in whatever order messages are done."""
        ledgers, tasks = {}, set()
        async for event in stream.noack().events():
            message = event.message
            ledger = ledgers.setdefault(message.partition, Ledger())
            ledger.enter(message.offset, generation=message.generation_id, ack=event.ack)
            tasks.add(asyncio.create_task(self._finish(event, ledger)))

    async def _finish(self, event, ledger):
        with stop_on_unforeseen("handling a message"):
            await self.handle(event.value)
        ledger.settle([event.message.offset])


def main(how, brokers, name, folder, fault=""):
    """Run the application *how*."""
    app = create_app(how, brokers, name, Path(folder))
    topic = app.topic(name, value_type=bytes, value_serializer="raw", partitions=2)
    handler = Handler(Path(folder), fault)
    agents = {
        "stock-slow": handler.stock,
        "stock-raise": handler.stock,
        "stock-noack-raise": handler.stock_noack,
    }
    concurrency = 2 if how == "stock-slow" else 1
    app.agent(topic, concurrency=concurrency, name="keep")(agents.get(how, handler.ours))
    faust.Worker(app, loglevel="warning").execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
