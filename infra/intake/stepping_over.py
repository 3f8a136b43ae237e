"""Steps over what cannot be taken apart, where an operator wants it: first a dead letter, then the position."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog
from aiokafka import TopicPartition

from command.ports import StoreUnavailable
from infra.intake.dead_letters import UNREADABLE, dead_letter
from infra.intake.intake import Observer, Publishes
from infra.intake.publisher import NotPublished
from infra.postgres.connections import transaction
from infra.postgres.intake_skips import Skip, find

logger = structlog.get_logger(__name__)

OFFSETS_MAX: Final = 1_000  # Of one wish: as many letters are written at once.


@dataclass(frozen=True, slots=True)
class Unreadable:
    """All that is known of a record that no client can take apart: where it is."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class SteppingOver:
    """Asked about each record that holds its partition. ``letters``: topic -> where its dead letters go."""

    def __init__(
        self,
        dsn: str,
        publisher: Publishes,
        letters: Mapping[str, str],
        observer: Observer,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._dsn = dsn
        self._publisher = publisher
        self._letters = letters
        self._observer = observer
        self._now = now

    async def __call__(self, at: TopicPartition, offset: int, error: Exception) -> int | None:
        """The offset to go on at, once letters are written; None: nobody wants that, or it cannot be done now.

        Never raises: the partition then stays held, and is asked about again.
        """
        try:
            skip = await asyncio.to_thread(self._find, at, offset)
            if skip is None:
                return None
            last = min(skip.last, offset + OFFSETS_MAX - 1)
            detail = f"{type(error).__name__}: {error}; stepped over by {skip.asked_by}: {skip.reason}"
            await self._publisher.publish(
                [
                    dead_letter(
                        self._letters[at.topic],
                        Unreadable(at.topic, at.partition, each),
                        reason=UNREADABLE,
                        detail=detail,
                        now=self._now(),
                    )
                    for each in range(offset, last + 1)
                ]
            )
        except (StoreUnavailable, NotPublished) as failure:
            logger.warning("not_stepped_over", topic=at.topic, partition=at.partition, reason=str(failure))
            return None
        for _ in range(offset, last + 1):
            self._observer.letter_written(at.topic, UNREADABLE)
        logger.warning(
            "records_stepped_over", topic=at.topic, partition=at.partition, first=offset, last=last, detail=detail
        )
        return last + 1

    def _find(self, at: TopicPartition, offset: int) -> Skip | None:
        with transaction(self._dsn, name="intake-skips") as cursor:
            return find(cursor, at.topic, at.partition, offset)
