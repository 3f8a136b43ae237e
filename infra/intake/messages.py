"""A message on its way to a topic."""

from typing import NamedTuple

# Of a value that we write ourselves. The topics that we write to take twice as much (see contracts/topics.py): what is
# around the value has room beside it.
VALUE_BYTES_MAX = 1_048_576


class Outgoing(NamedTuple):
    """A message on its way to a topic. ``partition`` is None where the key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    partition: int | None = None
