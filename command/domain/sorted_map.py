"""An immutable map in the order of its keys: a changed copy shares all but one small chunk with the one before."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

K = TypeVar("K")
V = TypeVar("V")

# A change copies one chunk and the list of chunks: for 20,000 entries some 200 + 150 pointers, whatever they point to.
CHUNK_MAX: Final = 256

_key: Final = itemgetter(0)


class SortedMap(Generic[K, V]):
    """Keys must be comparable with each other. As JSON it is the list of its ``[key, value]`` pairs, in order."""

    __slots__ = ("_chunks", "_size")

    def __init__(self, items: Iterable[tuple[K, V]] = ()) -> None:
        """From pairs in any order, of which the last one of a key counts."""
        pairs = sorted(dict(items).items(), key=_key)
        half = CHUNK_MAX // 2
        self._chunks: tuple[tuple[tuple[K, V], ...], ...] = tuple(
            tuple(pairs[at : at + half]) for at in range(0, len(pairs), half)
        )
        self._size = len(pairs)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[K, V]]:
        """Every pair, in the order of the keys."""
        return (pair for chunk in self._chunks for pair in chunk)

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SortedMap) and self._size == other._size and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash((self._size, self._chunks[0][0] if self._chunks else None))

    def __repr__(self) -> str:
        return f"SortedMap({list(self)!r})"

    def get(self, key: K) -> V | None:
        """The value of a key; None when there is none."""
        if not self._chunks:
            return None
        chunk = self._chunks[self._chunk_of(key)]
        at = _place(chunk, key)
        return chunk[at][1] if at < len(chunk) and chunk[at][0] == key else None

    def after(self, key: Any) -> Iterator[tuple[K, V]]:
        """The pairs whose keys are not below this one, in order."""
        if not self._chunks:
            return
        first = self._chunk_of(key)
        chunk = self._chunks[first]
        yield from chunk[_place(chunk, key) :]
        for at in range(first + 1, len(self._chunks)):
            yield from self._chunks[at]

    def plus(self, key: K, value: V) -> "SortedMap[K, V]":
        """With this value for the key."""
        if not self._chunks:
            return self._of((((key, value),),), 1)
        nth = self._chunk_of(key)
        chunk = self._chunks[nth]
        at = _place(chunk, key)
        known = at < len(chunk) and chunk[at][0] == key
        changed = (*chunk[:at], (key, value), *chunk[at + known :])
        return self._with_chunk(nth, changed, self._size + (not known))

    def minus(self, key: K) -> "SortedMap[K, V]":
        """Without the key."""
        if self.get(key) is None:
            return self
        nth = self._chunk_of(key)
        chunk = self._chunks[nth]
        at = _place(chunk, key)
        return self._with_chunk(nth, (*chunk[:at], *chunk[at + 1 :]), self._size - 1)

    def _chunk_of(self, key: Any) -> int:
        """The last chunk that begins at or below the key, else the first."""
        return max(bisect_right(self._chunks, key, key=_first_key) - 1, 0)

    def _with_chunk(self, nth: int, chunk: tuple[tuple[K, V], ...], size: int) -> "SortedMap[K, V]":
        """Replace a chunk: an empty one goes, a full one becomes two, a small one joins the one after it."""
        until = nth + 1
        if until < len(self._chunks) and len(chunk) + len(self._chunks[until]) <= CHUNK_MAX // 2:
            chunk, until = (*chunk, *self._chunks[until]), until + 1
        half = len(chunk) // 2
        parts = (chunk[:half], chunk[half:]) if len(chunk) > CHUNK_MAX else (chunk,)
        return self._of((*self._chunks[:nth], *(part for part in parts if part), *self._chunks[until:]), size)

    @classmethod
    def _of(cls, chunks: tuple[tuple[tuple[K, V], ...], ...], size: int) -> "SortedMap[K, V]":
        made: SortedMap[K, V] = cls.__new__(cls)
        made._chunks = chunks
        made._size = size
        return made

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Snapshots: the pairs in order, so that equal maps are written alike, however they came about."""
        key, value = get_args(source)
        pairs = handler.generate_schema(list[tuple[key, value]])  # type: ignore[valid-type]
        return core_schema.no_info_after_validator_function(
            cls, pairs, serialization=core_schema.plain_serializer_function_ser_schema(list, return_schema=pairs)
        )


def _place(chunk: tuple[tuple[Any, Any], ...], key: Any) -> int:
    """Where a key is in a chunk, or would be."""
    return bisect_left(chunk, key, key=_key)


def _first_key(chunk: tuple[tuple[Any, Any], ...]) -> Any:
    return chunk[0][0]
