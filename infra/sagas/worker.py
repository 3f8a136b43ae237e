"""The saga worker: ear, voice and clock of the sagas, each on a thread of its own, in one process."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from command.engine import Busy, EngineStopped
from command.ports import StoreUnavailable, StreamConflict
from infra.kafka.errors import KafkaUnavailable
from infra.kafka.lanes import Stranger, ignore_strangers
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.postgres.positions import PositionMoved
from infra.sagas.checkpoints import Checkpoint, pass_by
from infra.sagas.dispatcher import Dispatcher
from infra.sagas.ear import Ear
from infra.sagas.lane_runner import LaneRunner
from infra.sagas.ports import LaneSource
from infra.sagas.postgres_store import PostgresSagaStore
from infra.sagas.runner import SagaRunner
from infra.sagas.sending import Submits, describe
from infra.sagas.settings import SagaSettings
from infra.sagas.timer_service import TimerService

logger = logging.getLogger(__name__)

BACKOFF_SECONDS_FIRST: Final = 0.05

# After these a part waits a little and goes on; after any other error it halts, because going on would be guessing:
# it stays where it is, and only looks now and then whether somebody has helped.
PASSING = (Busy, StoreUnavailable, KafkaUnavailable, StreamConflict, PositionMoved)

State = Literal["new", "running", "waiting", "halted", "stopped"]


@dataclass(slots=True)
class PartStatus:
    """How one part is doing. ``handled`` counts what it heard, sent or fired since it started."""

    state: State = "new"
    handled: int = 0
    error: str | None = None


class Part:
    """One thread that does a step again and again, rests when there is nothing to do, and halts rather than skips.

    A halted part takes nobody with it: the other parts go on, and so does the process.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], int],
        rest: Callable[[], object],
        stopping: threading.Event,
        settings: SagaSettings,
    ) -> None:
        self.status = PartStatus()
        self._name = name
        self._step = step
        self._rest = rest
        self._stopping = stopping
        self._settings = settings
        self._thread = threading.Thread(target=self._run, name=f"sagas-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end of the thread; says whether it came."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        backoff = BACKOFF_SECONDS_FIRST
        while not self._stopping.is_set():
            try:
                handled = self._step()
            except PASSING as error:
                self._note("waiting", error)
                self._stopping.wait(backoff)
                backoff = min(2 * backoff, self._settings.backoff_seconds_max)
            except Exception as error:  # noqa: BLE001 - told by status() and the log; the other parts go on.
                if isinstance(error, EngineStopped) and self._stopping.is_set():
                    break
                self._note("halted", error)
                self._stopping.wait(self._settings.halted_again_seconds)
            else:
                backoff = BACKOFF_SECONDS_FIRST
                self.status.state, self.status.error = "running", None
                self.status.handled += handled
                if not handled:
                    self._rest()
        self.status.state = "stopped"

    def _note(self, state: State, error: Exception) -> None:
        known = state == "halted" and (self.status.state, self.status.error) == (state, describe(error))
        self.status.state, self.status.error = state, describe(error)
        if known:
            return  # Told once; it is looked at again and again.
        about = {"part": self._name, "error": self.status.error}
        if state == "halted":
            logger.critical("saga_part_halted", exc_info=error, extra=about)
        else:
            logger.warning("saga_part_waiting", extra=about)


class SagaWorker:
    """Runner, dispatcher and timers over one store and one engine. The engine is the caller's to start and stop."""

    def __init__(
        self,
        dsn: str,
        log: PostgresEventLog,
        engine: Submits,
        settings: SagaSettings | None = None,
        *,
        checkpoint: Checkpoint = pass_by,
        router: Submits | None = None,
        lanes: LaneSource | None = None,
        on_stranger: Stranger = ignore_strangers,
    ) -> None:
        """``router``: where there are several shards, what brings letters to them. ``lanes``: instead of the log.

        ``on_stranger`` is told of records on lanes that no relay wrote.
        """
        self._settings = settings or SagaSettings()
        self._stopping = threading.Event()
        self._owed = threading.Event()  # There is something to send.
        self._letters = threading.Event()  # … to another shard.
        self._feed = StoreFeed(dsn, shard=log.shard)
        bounds = self._settings
        ear, voice, clock, post = (
            PostgresSagaStore(dsn, log, name=name) for name in ("sagas", "saga-outbox", "timers", "saga-letters")
        )
        self._rests_by_itself = lanes is not None
        self.runner: Ear
        if lanes is None:
            self.runner = SagaRunner(ear, self._feed, bounds, checkpoint=checkpoint, on_commands=self._wake)
        else:
            self.runner = LaneRunner(
                lanes,
                log.shard,
                ear,
                self._feed,
                bounds,
                checkpoint=checkpoint,
                on_commands=self._wake,
                on_stranger=on_stranger,
            )
        self.dispatcher = Dispatcher(voice, engine, bounds, checkpoint=checkpoint)
        self.timers = TimerService(clock, engine, bounds, checkpoint=checkpoint)
        self.courier = Dispatcher(post, router or engine, bounds, checkpoint=checkpoint, letters=True)
        self._parts = {
            "runner": Part("runner", self._hear, self._await_facts, self._stopping, bounds),
            "dispatcher": Part("dispatcher", self.dispatcher.run_once, self._await_debts, self._stopping, bounds),
            "timers": Part("timers", self.timers.run_once, self._await_time, self._stopping, bounds),
        }
        if router is not None:
            courier = Part("courier", self.courier.run_once, self._await_letters, self._stopping, bounds)
            self._parts["courier"] = courier

    def start(self) -> None:
        """Start all parts."""
        for part in self._parts.values():
            part.start()

    def stop(self, timeout_seconds: float = 30.0) -> bool:
        """Let every part finish its step and stop; says whether all did in time. Safe to call twice."""
        self._stopping.set()
        self._wake()
        ended = all(part.join(timeout_seconds) for part in self._parts.values())
        if ended:
            self.runner.close()
            self.dispatcher.close()
            self.courier.close()
            self.timers.close()
            self._feed.close()
        return ended

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until all parts have ended; says whether they have."""
        return all(part.join(timeout_seconds) for part in self._parts.values())

    @property
    def halted(self) -> str | None:
        """Why a part does not go on, while one does not."""
        for name, part in self._parts.items():
            if part.status.state == "halted":
                return f"{name}: {part.status.error}"
        return None

    def status(self) -> dict[str, Any]:
        """How every part is doing, and up to where the log was heard."""
        parts = {
            name: {"state": part.status.state, "handled": part.status.handled, "error": part.status.error}
            for name, part in self._parts.items()
        }
        return {"offset": self.runner.offset, "parts": parts}

    def _hear(self) -> int:
        """Hear what there is, then let facts gather: many cost little more than one.

        Whoever hears appends, and a batch that is overtaken by it is decided again. Most orders owe nothing to anybody:
        their first steps went along with them.
        """
        handled, bounds = self.runner.run_once(), self._settings
        if 0 < handled < bounds.facts_max:
            self._stopping.wait(bounds.gather_calm_seconds if self.runner.is_calm else bounds.gather_seconds)
        return handled

    def _await_facts(self) -> None:
        if not self._rests_by_itself:
            self._feed.wait(self._settings.poll_seconds)

    def _await_debts(self) -> None:
        """Woken by the runner of this process; the wait's end finds retries and what another process left behind."""
        self._owed.wait(self._settings.timer_poll_seconds)
        self._owed.clear()

    def _await_letters(self) -> None:
        self._letters.wait(self._settings.timer_poll_seconds)
        self._letters.clear()

    def _wake(self) -> None:
        self._owed.set()
        self._letters.set()

    def _await_time(self) -> None:
        self._stopping.wait(self._settings.timer_poll_seconds)
