"""Where a key lands: as Java's clients say, whose test vectors these are."""

import pytest
from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from infra.kafka.partition import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_hash_as_in_java(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF


@given(st.binary(max_size=80))
def test_any_key_hashes_as_in_the_client_that_we_publish_with(key: bytes) -> None:
    assert murmur2(key) == theirs(key)


@given(st.text(), st.integers(1, 1_000))
def test_a_partition_exists(stream: str, partitions: int) -> None:
    assert 0 <= partition_of(stream, partitions) < partitions
