"""The ledger acknowledges in offset order, and never past a record that is not settled."""

from hypothesis import given
from hypothesis import strategies as st

from streamapp.receiver.ledger import Ledger


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from([1, 1, 1, 3])),
        st.tuples(st.just("enter"), st.just(1)),
        st.tuples(st.just("settle"), st.lists(st.integers(0, 12), max_size=4)),
        st.tuples(st.just("settle"), st.lists(st.integers(0, 40), max_size=6)),
        st.tuples(st.just("rewind"), st.integers(0, 10)),
        st.tuples(st.just("rebalance"), st.integers(0, 3)),
    ),
    max_size=60,
)


class Model:
    """What Kafka would know: which acknowledgements came, in which generation."""

    def __init__(self):
        self.ledger = Ledger()
        self.life = 0
        self.offset = -1
        self.generation = 1
        self.entered = set()
        self.settled = set()
        self.acked = []

    def enter(self, offset):
        """Enter the record at *offset* in this generation."""
        life = self.life
        void = self.ledger.enter(
            offset, generation=self.generation, ack=lambda: self.acked.append((life, offset))
        )
        self.offset = offset
        self.entered.add(offset)
        return void

    def begin_anew(self, offset):
        """Enter a record that voids all before it."""
        had_any = self.offset >= 0
        self.life += 1
        self.entered.clear()
        self.settled.clear()
        assert had_any == self.enter(offset)

    def settle(self, offsets):
        """Settle *offsets*; those that never came must change nothing."""
        self.settled |= self.entered & set(offsets)
        self.ledger.settle(offsets)

    def run(self, kind, value):
        """Do one step."""
        if kind == "enter":
            assert not self.enter(self.offset + value)
        elif kind == "settle":
            self.settle(value)
        elif kind == "rewind":
            self.begin_anew(max(0, self.offset - value))
        else:
            self.generation += 1
            self.begin_anew(self.offset + 1 + value)


@given(STEPS)
def test_order(steps):
    """Acknowledgements come in offset order, none past an open record, none of a void one."""
    model = Model()
    for kind, value in steps:
        before = len(model.acked)
        model.run(kind, value)
        open_ = model.entered - model.settled
        acked = [offset for life, offset in model.acked if life == model.life]

        assert all(life == model.life for life, _ in model.acked[before:])
        assert sorted(o for o in model.settled if o < min(open_, default=1000)) == acked
        assert min(model.entered - set(acked), default=None) == model.ledger.safe_offset
        assert len(model.entered) - len(acked) == len(model.ledger)
        assert model.offset == model.ledger.last_offset


def test_open_head():
    """Nothing is acknowledged while the first record is open, whatever is settled after it."""
    model = Model()
    for offset in range(100):
        model.enter(offset)

    model.settle(range(1, 100))
    assert [] == model.acked

    model.settle([0])
    assert [(0, offset) for offset in range(100)] == model.acked


def test_settled_before_entered():
    """An offset that was not entered cannot be settled in advance."""
    model = Model()
    model.settle([0, 1])
    model.enter(0)
    model.enter(1)
    model.settle([7])

    assert [] == model.acked


def test_settled_before_the_rewind():
    """A record that was settled before a rewind is delivered again, and is open again."""
    model = Model()
    model.enter(0)
    model.enter(1)
    model.settle([1])
    model.begin_anew(0)
    model.enter(1)
    model.settle([0])

    assert [(1, 0)] == model.acked


def test_acknowledges_once():
    """A record is acknowledged once, however often it is settled."""
    model = Model()
    model.enter(3)
    model.settle([3, 3])
    model.settle([3])

    assert [(0, 3)] == model.acked


def test_first_event_voids_nothing():
    """The first record of a partition voids nothing, whatever its generation."""
    assert not Ledger().enter(0, generation=None, ack=list)


def test_settling_while_acknowledging():
    """An acknowledgement that settles more neither repeats nor reorders any."""
    ledger, acked = Ledger(), []
    ledger.enter(0, generation=1, ack=lambda: (acked.append(0), ledger.settle([1])))
    ledger.enter(1, generation=1, ack=lambda: acked.append(1))
    ledger.settle([0])

    assert [0, 1] == acked


def test_void_unless():
    """Records of an older generation are void, even if no new record comes."""
    ledger, acked = Ledger(), []
    assert not ledger.void_unless(1)
    ledger.enter(5, generation=1, ack=lambda: acked.append(5))

    assert not ledger.void_unless(1)
    assert ledger.safe_offset == 5
    assert ledger.void_unless(2)
    ledger.settle([5])

    assert ([], None) == (acked, ledger.safe_offset)
