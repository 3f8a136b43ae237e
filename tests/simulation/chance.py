"""The one source of chance of a simulation, and the trace that tells whether two runs were the same."""

from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import Final, TextIO, TypeVar

T = TypeVar("T")

LINES_KEPT: Final = 400


class Chance:
    """Everything that is not told is drawn here, so that a seed is all there is to know."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def happens(self, probability: float) -> bool:
        """Whether something happens that does so this often."""
        return self.random.random() < probability

    def one_of(self, things: Sequence[T]) -> T:
        """Any of them."""
        return things[int(self.random.random() * len(things))]

    def between(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return least + int(self.random.random() * (most - least + 1))


class Trace:
    """What happened, in order: a running digest, the last lines, and all of them in a file when one is given."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._digest = blake2b(digest_size=16)
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self._file = file
        self.lines = 0

    def note(self, line: str) -> None:
        """One more thing happened."""
        self.lines += 1
        self._digest.update(line.encode() + b"\n")
        self._last.append(line)
        if self._file is not None:
            self._file.write(line + "\n")

    def add(self, content: bytes) -> None:
        """Something that belongs to the digest and is too long to be read."""
        self._digest.update(content)

    @property
    def digest(self) -> str:
        """What two runs have in common exactly when they went the same way."""
        return self._digest.hexdigest()

    @property
    def tail(self) -> list[str]:
        """The last lines."""
        return list(self._last)
