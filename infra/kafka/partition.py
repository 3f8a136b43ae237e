"""In which partition a key lands: the same as Java's default partitioner says, so that anyone can tell."""

import struct
from typing import Final

_SEED: Final = 0x9747B28C
_MIX: Final = 0x5BD1E995
_WORD: Final = 0xFFFFFFFF


def partition_of(stream: str, partitions: int) -> int:
    """The partition of a stream's events: murmur2 of its id in UTF-8, without the sign, modulo their number."""
    return partition_of_key(stream.encode(), partitions)


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of any key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's variant of MurmurHash2, 32 bits, unsigned (``org.apache.kafka.common.utils.Utils.murmur2``)."""
    words = len(data) >> 2
    hashed = _SEED ^ len(data)
    for word in struct.unpack_from(f"<{words}I", data):
        mixed = word * _MIX & _WORD
        hashed = (hashed * _MIX & _WORD) ^ ((mixed ^ mixed >> 24) * _MIX & _WORD)
    rest = data[words << 2 :]
    if rest:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _MIX & _WORD
    hashed = (hashed ^ hashed >> 13) * _MIX & _WORD
    return hashed ^ hashed >> 15
