"""A batch of records to commands, their answers to replies, and what is no command to the dead letters."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final, Protocol

import structlog

from command.tickets import Busy, EngineStopped, NeverFits
from contracts.envelope import Answer, CommandEnvelope
from infra.entry.bridge import AnswerBridge
from infra.entry.failures import problem_for
from infra.entry.first_steps import FirstStep, no_first_step, queued
from infra.entry.problems import Problem
from infra.intake.dead_letters import dead_letter
from infra.intake.decoding import Door, decode
from infra.intake.messages import Outgoing
from infra.intake.publisher import NotPublished
from infra.intake.replies import reply
from infra.kafka.messages import Record
from infra.telemetry.tracing import Tracing

logger = structlog.get_logger(__name__)

DEFECT_ATTEMPTS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a batch is tried: with pauses from the first to the longest, until ``give_up_seconds`` have gone.

    Then it is fetched and tried again. All of that together stays below the time after which Kafka would give the
    partitions of a consumer that does not ask for records to another one (five minutes).
    """

    pause_seconds_first: float = 0.1
    pause_seconds_max: float = 2.0
    give_up_seconds: float = 30.0


class MustWait(Exception):
    """A batch cannot be finished now: nothing of it may be acknowledged, and all of it has to come again."""


class Observer(Protocol):
    """Whoever counts what comes in."""

    def records_answered(self, topic: str, code: str, count: int) -> None:
        """So many records were answered with this code."""
        ...

    def letter_written(self, topic: str, reason: str) -> None:
        """One record can never be taken in: it becomes a dead letter."""
        ...

    def batch_waits(self, topic: str, reason: str) -> None:
        """A batch has to be tried again."""
        ...


class Publishes(Protocol):
    """Where messages go."""

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return once every message is acknowledged. Raises NotPublished."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """One topic that is taken in: what its records may ask for, and where those go that cannot be taken in."""

    topic: str
    door: Door
    dead_letter_topic: str


@dataclass(slots=True)
class _Asked:
    """A record, the command that it is, and how often that broke on a defect of ours."""

    record: Record
    envelope: CommandEnvelope
    defects: int = 0


@dataclass(slots=True)
class _Batch:
    """How far a batch is: what still needs an answer, and what is to be published of the rest."""

    way: Way
    left: list[_Asked] = field(default_factory=list)
    messages: list[Outgoing] = field(default_factory=list)


class Intake:
    """Takes batches in. Whatever a record holds, its batch is finished; only what passes makes a batch wait.

    - An answer, accepted or refused, becomes a reply.
    - What can never be a command becomes a dead letter; so does a command that breaks on a defect of ours.
    - A full queue or a store that is away is no answer: the batch waits, and so does its partition.

    All replies and dead letters are acknowledged before :meth:`take` returns; only then may offsets be committed.
    Taken again, a batch gives the same answers: they are in the command log.
    """

    def __init__(
        self,
        bridge: AnswerBridge,
        publisher: Publishes,
        reply_topic: str,
        tracing: Tracing,
        observer: Observer,
        *,
        first_step: FirstStep = no_first_step,
        patience: Patience | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._bridge = bridge
        self._publisher = publisher
        self._reply_topic = reply_topic
        self._tracing = tracing
        self._observer = observer
        self._first_step = first_step
        self._patience = patience or Patience()
        self._now = now
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let no batch wait any longer: what is under way is finished if it can be now."""
        self._stopping.set()

    async def take(self, records: Sequence[Record], way: Way) -> None:
        """Finish a batch. Raises MustWait when that cannot be done now."""
        batch = _Batch(way)
        for record in records:
            try:
                batch.left.append(_Asked(record, self._traced(decode(record, way.door))))
            except Problem as problem:
                batch.messages.append(self._letter(record, way, problem))
        await self._until_done(batch, self._decide)
        await self._until_done(batch, self._publish)

    async def _until_done(self, batch: _Batch, step: Callable[[_Batch], Awaitable[str | None]]) -> None:
        """Try a step, which says why it has to be tried again, or None. Raises MustWait when patience ends."""
        until = monotonic() + self._patience.give_up_seconds
        pause = self._patience.pause_seconds_first
        while (reason := await step(batch)) is not None:
            self._observer.batch_waits(batch.way.topic, reason)
            if self._stopping.is_set() or monotonic() + pause > until:
                raise MustWait(reason)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, self._patience.pause_seconds_max)

    # The two steps.

    async def _decide(self, batch: _Batch) -> str | None:
        """Have commands decided and their answers made replies; what has no answer yet is left."""
        asked, batch.left = batch.left, []
        reason: str | None = None
        codes: Counter[str] = Counter()
        for each, outcome in zip(asked, await self._outcomes(asked), strict=True):
            if isinstance(outcome, Answer):
                batch.messages.append(reply(self._reply_topic, each.envelope, outcome))
                codes[outcome.code] += 1
            elif (passing := self._passing(each, outcome)) is not None:
                batch.left.append(each)
                reason = passing
            else:
                problem = problem_for(outcome)
                logger.error("command_given_up", reason=str(outcome), **_about(each.record, each.envelope))
                batch.messages.append(self._letter(each.record, batch.way, problem))
        for code, count in codes.items():
            self._observer.records_answered(batch.way.topic, code, count)
        return reason

    async def _outcomes(self, asked: Sequence[_Asked]) -> Sequence[Answer | Exception]:
        """What the engine says to each, in their order; when it takes none of them, the same to all."""
        if not asked:
            return []
        try:
            answers = queued(self._bridge, self._first_step, [each.envelope for each in asked])
        except NeverFits as error:
            if len(asked) == 1:
                return [error]
            middle = len(asked) // 2
            return [*await self._outcomes(asked[:middle]), *await self._outcomes(asked[middle:])]
        except (Busy, EngineStopped) as error:
            return [error] * len(asked)
        await asyncio.wait(answers)
        return [_outcome(answer) for answer in answers]

    @staticmethod
    def _passing(asked: _Asked, error: Exception) -> str | None:
        """Why a command without an answer may have one later; None when waiting would not help."""
        problem = problem_for(error)
        if problem.code != "internal":
            return problem.code if problem.retryable else None
        asked.defects += 1
        return problem.code if asked.defects < DEFECT_ATTEMPTS_MAX else None

    async def _publish(self, batch: _Batch) -> str | None:
        try:
            await self._publisher.publish(batch.messages)
        except NotPublished as error:
            logger.warning("replies_not_published", topic=batch.way.topic, reason=str(error))
            return "not_published"
        return None

    def _letter(self, record: Record, way: Way, problem: Problem) -> Outgoing:
        self._observer.letter_written(way.topic, problem.code)
        logger.warning("record_refused", reason=problem.code, detail=problem.detail, **_about(record))
        return dead_letter(way.dead_letter_topic, record, reason=problem.code, detail=problem.detail, now=self._now())

    def _traced(self, envelope: CommandEnvelope) -> CommandEnvelope:
        told = envelope.traceparent.encode() if envelope.traceparent is not None else None
        return envelope._replace(traceparent=self._tracing.traceparent_of(told))


def _outcome(answer: "asyncio.Future[Answer]") -> Answer | Exception:
    if answer.cancelled():
        return TimeoutError("the wait for the answer was ended")
    error = answer.exception()
    if error is None:
        return answer.result()
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _about(record: Record, envelope: CommandEnvelope | None = None) -> dict[str, object]:
    """What names a record in the log; never what it holds."""
    about: dict[str, object] = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    if envelope is not None:
        about |= {"command_id": envelope.command_id, "command": envelope.command.type, "realm": envelope.realm.key}
    return about
