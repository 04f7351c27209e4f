"""Flow control: a record that was queued is taken out, however often flow is resumed."""

from mode.utils.queues import FlowControlEvent, FlowControlQueue

from streamapp.settings import Settings
from streamapp.worker.application import create_app
from streamapp.worker.flow_control import FETCHED_RECORDS, FlowControl


def queue_after_resuming_twice(flow):
    """Return a queue that got a record before flow was resumed, and one between two resumes."""
    queue = FlowControlQueue(flow_control=flow, clear_on_resume=True)
    queue.put_nowait("old")
    flow.resume()
    queue.put_nowait("new")
    flow.resume()
    return queue


async def test_keeps_what_came_in():
    """The second resume changes nothing; the first one empties the queue."""
    queue = queue_after_resuming_twice(FlowControl())

    assert "new" == queue.get_nowait()
    assert queue.empty()


async def test_suspended_again():
    """Records that were queued before a suspension are dropped."""
    flow = FlowControl()
    queue = queue_after_resuming_twice(flow)
    flow.suspend()
    flow.resume()

    assert queue.empty()


async def test_fault_of_mode():
    """The flow control of mode loses the record; if not, the override may be deleted."""
    assert queue_after_resuming_twice(FlowControlEvent()).empty()


def test_is_used():
    """The worker's application uses `FlowControl`."""
    app = create_app(Settings(machine_id="m"))

    assert isinstance(app.flow_control, FlowControl)


async def test_full_queue_holds_up_nobody():
    """A full queue asks for no more records, and accepts those that were fetched."""
    app = create_app(Settings(machine_id="m"))
    app.flow_control.resume()
    queue = app.FlowControlQueue(maxsize=8, clear_on_resume=True)
    pressure = []

    for number in range(5 + FETCHED_RECORDS):
        assert not queue.full()
        queue.put_nowait_enhanced(
            number,
            on_pressure_high=lambda: pressure.append("high"),
            on_pressure_drop=pressure.clear,
        )

    assert ["high"] == pressure
    assert [*range(5 + FETCHED_RECORDS)] == [queue.get_nowait() for _ in range(queue.qsize())]
    assert [] == pressure


async def test_recovery_has_a_bound():
    """Where pressure is ignored, as in a recovery, the queue is full in the end."""
    app = create_app(Settings(machine_id="m"))
    queue = app.FlowControlQueue(maxsize=8)
    for number in range(8 + FETCHED_RECORDS):
        queue.force_put_nowait(number)

    assert queue.full()
