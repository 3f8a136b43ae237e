"""Carries distributions out: sends their chunks, several under way at once, until each is done or told to stop."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

import psycopg

from command.domain.distribution import DISTRIBUTION, Distribution
from command.engine import Busy, EngineStopped
from command.ports import EventLog, StoreUnavailable
from command.states import SnapshotFormats, fold
from command.unit_of_work import NotYet
from contracts.commands import Command, IssueDistributionChunk, PauseDistribution
from contracts.envelope import Answer, CommandEnvelope
from infra.postgres import distributions
from infra.postgres.connections import connect, translated
from infra.postgres.distributions import Job
from infra.worker_loop import Pace, WorkerLoop

logger = logging.getLogger(__name__)

PREFIX: Final = "distribution"
ANSWER_SECONDS_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Bounds of a runner.

    ``chunks_ahead``: under way at once. ``chunks_per_read``: taken from the list at once, and decided before others
    that run have their turn. ``chunks_per_turn``: decided before anything else is looked at where no other runs.
    """

    chunks_ahead: int = 4
    chunks_per_read: int = 32
    chunks_per_turn: int = 1_000
    poll_seconds: float = 0.2
    backoff_seconds_first: float = 0.1
    backoff_seconds_max: float = 5.0
    job_backoff_seconds_max: float = 60.0


class _Failing(NamedTuple):
    """A distribution whose last turn failed: until when it is left alone, and for how long after the next."""

    until: float
    next_rest_seconds: float
    is_told: bool = False


class Work(NamedTuple):
    """A distribution as it was when its turn began, and in which history of the log that was so."""

    job: Job
    state: Distribution
    epoch: str


class CommandSink(Protocol):
    """What a runner needs of the engine."""

    def submit_many(self, envelopes: Sequence[CommandEnvelope]) -> list[Future[Answer]]:
        """Queue commands, kept together and in order. Raises Busy or EngineStopped."""
        ...


class DistributionRunner:
    """One thread over all distributions of a store. Several runners may run: each distribution is worked on by one."""

    def __init__(self, dsn: str, log: EventLog, engine: CommandSink, settings: RunnerSettings | None = None) -> None:
        self._dsn = dsn
        self._log = log
        self._engine = engine
        self._settings = settings or RunnerSettings()
        self._formats = SnapshotFormats()
        self._connection: psycopg.Connection[Any] | None = None
        self._first_failure = _Failing(0.0, self._settings.backoff_seconds_first)
        self._failing: dict[int, _Failing] = {}  # By the job's number.
        bounds = self._settings
        pace = Pace(bounds.poll_seconds, bounds.backoff_seconds_first, bounds.backoff_seconds_max)
        self._loop = WorkerLoop("distributions", self.run_once, self.close, pace)

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """Send nothing more, wait for the answers that are under way, and stop."""
        self._loop.stop(timeout_seconds)

    def close(self) -> None:
        """Give the connection back, and with it every lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def run_once(self) -> int:
        """One turn for every distribution that runs; returns how many rows were decided.

        One that fails by itself is logged once, left alone for a while, and tried again. Raises StoreUnavailable, Busy
        or EngineStopped: whatever was under way is found in the log.
        """
        with translated():
            jobs = distributions.open_jobs(self._cursor())
        self._failing = {job.number: self._failing[job.number] for job in jobs if job.number in self._failing}
        decided = 0
        for job in sorted(jobs, key=lambda job: job.number in self._failing):  # Else the oldest first.
            if self._loop.is_stopping:
                break
            decided += self._try(job)
        return decided

    def _try(self, job: Job) -> int:
        """Its turn, unless it rests; no failure of one may starve those behind it."""
        known = self._failing.get(job.number)
        now = monotonic()
        if known is not None and now < known.until:
            return 0
        try:
            with translated():
                decided = self._turn(job)
        except EngineStopped:
            raise
        except (Busy, StoreUnavailable):
            # Most likely all fail alike; if not, it is this one's turn only after the others'.
            self._failing[job.number] = (known or self._first_failure)._replace(until=now)
            raise
        except Exception as error:
            known = known or self._first_failure
            rest, most = known.next_rest_seconds, self._settings.job_backoff_seconds_max
            self._failing[job.number] = _Failing(now + rest, min(2 * rest, most), is_told=True)
            if not known.is_told:
                about = {"stream": job.stream, "reason": f"{type(error).__name__}: {error}"}
                logger.exception("distribution_failing", extra=about)
            return 0
        self._failing.pop(job.number, None)
        return decided

    def _turn(self, job: Job) -> int:
        if job.status == "paused":
            return 0
        with self._locked(job) as is_ours:
            if not is_ours:
                return 0
            if job.status != "running":
                distributions.finish(self._cursor(), job)
                return 0
            epoch = self._log.epoch  # First: the state is of this history, or of a later one that sends us back.
            state = self._state_of(job)  # Under the lock: whoever had it before us may have moved on meanwhile.
            after = self._send_chunks(Work(job, state, epoch))
            return after - state.next_row

    def _send_chunks(self, work: Work) -> int:
        """Send the next chunks in order, several ahead of their answers; returns which row is next then."""
        next_row = work.state.next_row
        if work.state.status != "running":
            return next_row
        chunks = self._chunks(work)
        if (chunk := next(chunks, None)) is None:
            self._give_up(work)
            return next_row
        under_way: deque[Future[Answer]] = deque()
        while chunk or under_way:
            while chunk and len(under_way) < self._settings.chunks_ahead and not self._loop.is_stopping:
                under_way.append(self._send(work, *chunk))
                chunk = next(chunks, None)
            if not under_way:
                break
            answer = _answer(under_way.popleft())
            if answer.accepted:
                next_row = answer.data["next_row"]
            else:  # Paused, cancelled, or somebody else's turn: nothing behind it can have been decided either.
                chunk = None
        return next_row

    def _chunks(self, work: Work) -> Iterator[tuple[int, list[str]]]:
        """The chunks of a turn, up to a gap: first row and users. Read on while those before are under way.

        Waiting for all that is under way before each read would leave the store idle for a tenth of the time.
        """
        next_row, left = work.state.next_row, self._settings.chunks_per_turn
        while left > 0:
            wanted = min(left, self._settings.chunks_per_read)
            read = distributions.chunks(self._cursor(), work.job, next_row, wanted)
            for first_row, user_ids in read:
                if first_row != next_row:
                    return
                yield first_row, user_ids
                next_row += len(user_ids)
            if len(read) < wanted or distributions.others_run(self._cursor(), work.job):
                return
            left -= wanted

    def _send(self, work: Work, first_row: int, user_ids: Sequence[str]) -> Future[Answer]:
        job, state, _ = work
        command = IssueDistributionChunk(
            distribution_id=job.distribution_id, first_row=first_row, user_ids=tuple(user_ids)
        )
        # A pause refuses chunks for good; each run asks anew. So does whoever was out of turn once, by the row it
        # thinks is next: the row itself, unless chunks before it were lost on the way.
        name = f"{state.runs}:{first_row}" if first_row != state.next_row else f"{state.runs}:{first_row}:next"
        (future,) = self._engine.submit_many([self._envelope(work, name, command)])
        return future

    def _give_up(self, work: Work) -> None:
        """Without its list nothing can go on: whoever looks is told, and may cancel it and start the rest anew."""
        job, state, _ = work
        reason = f"the list of users is missing from row {state.next_row} on; cancel, and distribute the rest anew"
        logger.error("distribution_list_missing", extra={"stream": job.stream, "row": state.next_row})
        command = PauseDistribution(distribution_id=job.distribution_id, reason=reason)
        (future,) = self._engine.submit_many([self._envelope(work, f"{state.runs}:{state.next_row}:missing", command)])
        _answer(future)

    def _envelope(self, work: Work, name: str, command: Command) -> CommandEnvelope:
        job = work.job
        return CommandEnvelope(
            realm=job.realm,
            command_id=f"{PREFIX}:{job.distribution_id}:{name}",
            command=command,
            actor=job.actor,
            correlation_id=job.correlation_id,
            traceparent=job.traceparent,
            asked_in=work.epoch,
        )

    def _state_of(self, job: Job) -> Distribution:
        hashes = self._formats.hashes((DISTRIBUTION,))
        with self._log.reading() as view:
            history = view.histories((job.stream,), schema_hashes=hashes).get(job.stream)
        state: Distribution = fold(DISTRIBUTION, history, self._formats).state
        return state

    @contextmanager
    def _locked(self, job: Job) -> Iterator[bool]:
        cursor = self._cursor()
        is_ours = distributions.try_lock(cursor, job)
        try:
            yield is_ours
        finally:
            if is_ours and not cursor.connection.closed:
                with suppress(psycopg.Error):  # Then the session is gone, and the lock with it.
                    distributions.unlock(cursor, job)

    def _cursor(self) -> psycopg.Cursor[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, name="distributions", autocommit=True)
        return self._connection.cursor()


def _answer(future: Future[Answer]) -> Answer:
    try:
        return future.result(ANSWER_SECONDS_MAX)
    except FutureTimeout:
        raise StoreUnavailable(f"no answer within {ANSWER_SECONDS_MAX:.0f} s; the log will tell") from None
    except NotYet as restored:
        raise StoreUnavailable(str(restored)) from None
