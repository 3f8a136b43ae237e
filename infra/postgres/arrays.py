"""Columns as PostgreSQL's binary arrays: what a batch sends, encoded several times faster than element by element."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from struct import Struct, pack, unpack_from
from typing import ClassVar, Final

from psycopg import adapters
from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

# Dimensions, "has nulls", the elements' type, the length, the first index.
_HEAD = Struct("!iiIii").pack
_EMPTY = Struct("!iiI").pack
_LENGTH = Struct("!i").pack
TEXT_OID, BYTEA_OID, INTEGER_OID, BIGINT_OID = 25, 17, 23, 20
_INT8_BYTES, _LENGTH_BYTES, _ONE_DIMENSION_BYTES = 8, 4, 20
TEXTS_OID, BYTES_OID, INTEGERS_OID = 1009, 1001, 1016
INSTANT_OID, INSTANTS_OID = 1184, 1185
BINARY_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # Where PostgreSQL's binary instants begin, in microseconds.
_MICROSECOND: Final = timedelta(microseconds=1)


class PackedTexts(bytes):
    """A ``text[]``, encoded."""


class PackedBytes(bytes):
    """A ``bytea[]``, encoded."""


class PackedIntegers(bytes):
    """A ``bigint[]``, encoded."""


class PackedInstants(bytes):
    """A ``timestamptz[]``, encoded."""


def texts(values: Iterable[str]) -> PackedTexts:
    """A column of texts, none of them null."""
    column = values if isinstance(values, list) else list(values)
    if column and column.count(column[0]) == len(column):  # Tenants, types and codes mostly are all the same.
        text = column[0].encode()
        return PackedTexts(_HEAD(1, 0, TEXT_OID, len(column), 1) + (_LENGTH(len(text)) + text) * len(column))
    return PackedTexts(_packed([value.encode() for value in column], TEXT_OID))


def encoded_texts(values: Sequence[bytes]) -> PackedTexts:
    """A column of texts that are UTF-8 already."""
    return PackedTexts(_packed(values, TEXT_OID))


def byte_strings(values: Sequence[bytes]) -> PackedBytes:
    """A column of byte strings."""
    return PackedBytes(_packed(values, BYTEA_OID))


def integers(values: Sequence[int]) -> PackedIntegers:
    """A column of whole numbers of up to 64 bits."""
    return PackedIntegers(_of_64_bits(values, BIGINT_OID))


def instants(values: Sequence[datetime]) -> PackedInstants:
    """A column of instants, each with its zone."""
    return PackedInstants(_of_64_bits([(value - BINARY_EPOCH) // _MICROSECOND for value in values], INSTANT_OID))


def _of_64_bits(values: Sequence[int], oid: int) -> bytes:
    count = len(values)
    if not count:
        return _EMPTY(0, 0, oid)
    body = pack(f"!{'iq' * count}", *chain.from_iterable(zip(repeat(_INT8_BYTES, count), values, strict=True)))
    return _HEAD(1, 0, oid, count, 1) + body


def integers_of(packed: bytes) -> tuple[int, ...]:
    """The whole numbers of a column, none of them null: the inverse of :func:`integers`."""
    count = (len(packed) - _ONE_DIMENSION_BYTES) // (_LENGTH_BYTES + _INT8_BYTES)
    return unpack_from(f"!{'4xq' * count}", packed, _ONE_DIMENSION_BYTES) if count > 0 else ()


def _packed(values: Sequence[bytes], oid: int) -> bytes:
    if not values:
        return _EMPTY(0, 0, oid)
    lengths = map(_LENGTH, map(len, values))
    head = _HEAD(1, 0, oid, len(values), 1)
    return b"".join(chain((head,), chain.from_iterable(zip(lengths, values, strict=True))))


class _Packed(Dumper):
    """Sends what is encoded already. Its type is the instance's: a class with one would be taken for lists, too."""

    format: ClassVar[Format] = Format.BINARY  # type: ignore[misc]
    array_oid: ClassVar[int]

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self.oid = self.array_oid

    def dump(self, obj: bytes) -> Buffer:
        return obj


class _Texts(_Packed):
    array_oid = TEXTS_OID


class _Bytes(_Packed):
    array_oid = BYTES_OID


class _Integers(_Packed):
    array_oid = INTEGERS_OID


class _Instants(_Packed):
    array_oid = INSTANTS_OID


for _packed_type, _dumper in (
    (PackedTexts, _Texts),
    (PackedBytes, _Bytes),
    (PackedIntegers, _Integers),
    (PackedInstants, _Instants),
):
    adapters.register_dumper(_packed_type, _dumper)  # For every connection that is opened from now on.
