"""Records that can never be taken in, kept on a topic of their own with the reason and where they came from.

A letter is the record as it came (key, value, headers), and behind its headers ours: ``reason`` (a code), ``detail``,
``origin-topic``, ``origin-partition``, ``origin-offset`` and ``refused-at``. Where a record came from is its identity:
a letter that was written twice, because its batch came again, is one letter. What became of a letter is told by a
*mark* on the same topic: a record without a value, with the header ``settled``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, Self

from infra.intake.messages import VALUE_BYTES_MAX, Outgoing
from infra.kafka.messages import Record

Settled = Literal["requeued", "dropped"]

REASON: Final = "reason"
SETTLED: Final = "settled"
NULL: Final = "null-value"
REQUEUED_FROM: Final = "requeued-from"
CUT: Final = "cut"
UNREADABLE: Final = "unreadable"  # The reason of a letter without its record: no client could take that apart.
DETAIL_LENGTH_MAX: Final = 1_000
# Together with the largest value, and ours, well below what the topic takes (contracts/topics.py).
KEY_BYTES_MAX: Final = 65_536
HEADERS_BYTES_MAX: Final = 524_288
_HEADER_OVERHEAD_BYTES: Final = 10  # The two lengths of a header, five bytes each at most.


class Origin(NamedTuple):
    """Where a record came from; as text ``topic:partition:offset``, the name of its letter."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def of(cls, record: Record) -> Self:
        """Where a record is."""
        return cls(record.topic, record.partition, record.offset)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``. Raises ValueError."""
        topic, partition, offset = text.rsplit(":", 2)
        return cls(topic, int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that was not taken in. ``headers`` are its own; ``cut`` tells what was too large to be kept whole."""

    origin: Origin
    topic: str  # Where the letter is.
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    reason: str
    detail: str
    refused_at: str
    cut: str = ""  # "value", "key", "headers", or several of them with commas.
    settled: Settled | None = None
    settled_at: str | None = None


def dead_letter(topic: str, record: Record, *, reason: str, detail: str, now: datetime) -> Outgoing:
    """The letter of a record. ``topic`` is the dead-letter topic."""
    origin, value, key, own = Origin.of(record), record.value, record.key, tuple(record.headers)
    about = [
        (REASON, reason),
        ("detail", detail[:DETAIL_LENGTH_MAX]),
        *_origin_headers(origin),
        ("refused-at", _instant(now)),
    ]
    cut = []  # A letter that no broker takes would hold the partition up for good.
    if value is not None and len(value) > VALUE_BYTES_MAX:
        value = value[:VALUE_BYTES_MAX]
        cut.append("value")
    if key is not None and len(key) > KEY_BYTES_MAX:
        key = key[:KEY_BYTES_MAX]
        cut.append("key")
    if len(kept := _first_headers(own)) < len(own):
        own = kept
        cut.append("headers")
    if cut:
        about.append((CUT, ",".join(cut)))
    if value is None and record.key is None:
        value = b""  # Others can send a record of nothing at all; the client that we send with cannot.
        about.append((NULL, "true"))
    headers = (*own, *((name, text.encode()) for name, text in about))
    return Outgoing(topic, key, value, headers)


def _first_headers(headers: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
    """Those that there is room for, each of them whole. A header's value may be null."""
    room = HEADERS_BYTES_MAX
    for at, (name, value) in enumerate(headers):
        room -= len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES
        if room < 0:
            return headers[:at]
    return headers


def mark(letter: Letter, settled: Settled, *, now: datetime, actor: str, because: str = "") -> Outgoing:
    """What became of a letter, on the letter's own partition: behind it, and kept at least as long."""
    about = (
        (SETTLED, settled),
        *_origin_headers(letter.origin),
        ("settled-at", _instant(now)),
        ("settled-by", actor),
        ("settled-because", because),
    )
    headers = tuple((name, text.encode()) for name, text in about)
    return Outgoing(letter.topic, str(letter.origin).encode(), None, headers, letter.partition)


def original(letter: Letter) -> Outgoing:
    """The record as it came, to where it came from. Raises ValueError when it was not kept whole, or is nothing."""
    if letter.reason == UNREADABLE:
        raise ValueError("no client could take it apart, and only its place is kept here")
    if letter.cut:
        raise ValueError(f"too large, and not kept here whole: its {letter.cut}")
    if letter.key is None and letter.value is None:
        raise ValueError("it holds nothing at all: neither key nor value")
    headers = [each for each in letter.headers if each[0] != REQUEUED_FROM]
    headers.append((REQUEUED_FROM, str(letter.origin).encode()))
    return Outgoing(letter.origin.topic, letter.key, letter.value, tuple(headers))


def letters_in(records: Iterable[Record]) -> list[Letter]:
    """The letters of a dead-letter topic, each once, oldest first, with what became of them.

    Records that are neither letters nor marks are none of ours, and left out.
    """
    letters: dict[Origin, Letter] = {}
    marks: list[dict[str, bytes]] = []
    for record in records:
        if (letter := _letter(record)) is not None:
            letters.setdefault(letter.origin, letter)
        else:
            marks.append(dict(record.headers))
    for told in marks:  # Afterwards: a letter and its mark may come from two partitions.
        _settle(letters, told)
    return list(letters.values())


def _letter(record: Record) -> Letter | None:
    at = _last(record.headers, REASON)
    if at is None:
        return None
    told = {name: _text(value) for name, value in record.headers[at:]}
    try:
        origin = Origin(told["origin-topic"], int(told["origin-partition"]), int(told["origin-offset"]))
    except (KeyError, ValueError):
        return None
    return Letter(
        origin=origin,
        topic=record.topic,
        partition=record.partition,
        key=record.key,
        value=None if NULL in told else record.value,
        headers=tuple(record.headers[:at]),
        reason=told[REASON],
        detail=told.get("detail", ""),
        refused_at=told.get("refused-at", ""),
        cut=told.get(CUT, ""),
    )


def _settle(letters: dict[Origin, Letter], told: dict[str, bytes]) -> None:
    texts = {name: _text(value) for name, value in told.items()}
    try:
        origin = Origin(texts["origin-topic"], int(texts["origin-partition"]), int(texts["origin-offset"]))
    except (KeyError, ValueError):
        return
    settled: Settled = "dropped" if texts[SETTLED] == "dropped" else "requeued"
    if (letter := letters.get(origin)) is not None:
        letters[origin] = replace(letter, settled=settled, settled_at=texts.get("settled-at"))


def _origin_headers(origin: Origin) -> Sequence[tuple[str, str]]:
    return (
        ("origin-topic", origin.topic),
        ("origin-partition", str(origin.partition)),
        ("origin-offset", str(origin.offset)),
    )


def _last(headers: Sequence[tuple[str, bytes]], name: str) -> int | None:
    """Where the last header of this name is: ours stand behind those that the record came with."""
    return next((at for at in range(len(headers) - 1, -1, -1) if headers[at][0] == name), None)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _instant(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
