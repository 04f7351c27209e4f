"""The partition of a file's rows, acknowledgements and status: all clients must agree."""

import pytest

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from streamapp.protocol import routing, topics


# Kafka's own vectors (UtilsTest.testMurmur2), which librdkafka's murmur2_random passes too.
KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", KNOWN)
def test_known_vectors(key):
    """The hash is Java's, its sign cut off."""
    assert (KNOWN[key] & 0x7FFFFFFF) % topics.FILE_PARTITIONS == routing.partition_of(key)


@given(st.binary(max_size=100))
def test_as_faust(key):
    """Faust's producer, and with it its tables, route the same."""
    every = list(range(topics.FILE_PARTITIONS))

    assert DefaultPartitioner()(key, every, every) == routing.partition_of(key)
