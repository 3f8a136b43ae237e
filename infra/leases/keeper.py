"""The keeper of budget leases: looks at both sides of every shared budget and sends what brings them together."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Final, NamedTuple

from command.domain.leases import is_taken, purses
from command.engine import EngineStopped, HandlerFailed
from command.unit_of_work import NotYet
from contracts.envelope import CommandEnvelope
from contracts.identity import parse_stream
from infra.leases.books import Side, Store, holders_of, home_books
from infra.worker_loop import AWAY, Pace, WorkerLoop
from sagas.leases import Step, command_id, next_steps

logger = logging.getLogger(__name__)

ACTOR: Final = "leases"
# One command came to nothing. Nothing final is known then; the next look finds out how far it came.
UNFINISHED: Final = (HandlerFailed, NotYet)


class HolderAway(Exception):
    """A holder's store, not home's, does not answer; says why."""


class At(StrEnum):
    """Where a keeper can die."""

    LOOKED = "looked"
    SENDING = "sending"
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """Bounds of a keeper. ``look_seconds``: how often it looks at what did not change, for ends that came near."""

    term_seconds: int = 900
    poll_seconds: float = 0.25
    look_seconds: float = 5.0
    rounds_max: int = 10
    backoff_seconds_max: float = 5.0
    refused_seconds_max: float = 30.0


class Refused(NamedTuple):
    """A budget whose step was refused: wait so long before the next try, until then."""

    seconds: float
    until: float


class LeaseKeeper:
    """Steps over all budgets that live in one store and are shared with holders in others.

    It remembers only what it need not look at again: several keepers may run, and any of them may die anywhere.
    """

    def __init__(
        self,
        home: Store,
        holders: Mapping[str, Store],
        settings: KeeperSettings | None = None,
        *,
        checkpoint: Callable[[At], None] = lambda _at: None,
    ) -> None:
        self._home = home
        self._holders = holders
        self._settings = settings or KeeperSettings()
        self._checkpoint = checkpoint
        # By stream and holder: the versions of home and holder, and when to look again.
        self._seen: dict[tuple[str, str], tuple[int, int, float]] = {}
        self._refused: dict[
            tuple[str, str], Refused
        ] = {}  # By stream and holder, until one is accepted there or none is left.
        self.away: dict[str, str] = {}  # Holders that cannot be reached, and why.

    def run_once(self) -> int:
        """Look at what changed and send what is to be done; returns how many commands that were (0: all is well).

        A holder whose store is away keeps what it has, and a budget that fails is left alone for a while; both are
        logged. Raises EngineStopped, and Busy, StoreUnavailable or TimeoutError when home is away.
        """
        streams = self._home.shared_budgets()
        at_home = self._home.versions(streams)
        sent, away = 0, dict[str, str]()
        try:
            for holder, store in self._holders.items():
                try:
                    with _of_holder():
                        there = store.versions(streams)
                    for stream in streams:
                        sent += self._look(stream, holder, store, (at_home.get(stream, 0), there.get(stream, 0)))
                except HolderAway as error:
                    away[holder] = str(error)
                    logger.warning("lease_holder_away", extra={"holder": holder, "error": away[holder]})
                    store.close()
        finally:
            self.away = away
        return sent

    def close(self) -> None:
        """Give all connections back."""
        for store in (self._home, *self._holders.values()):
            store.close()

    def _look(self, stream: str, holder: str, store: Store, versions: tuple[int, int]) -> int:
        """Keep one budget if it is due; one that fails is no reason to leave the others alone."""
        refused = self._refused.get((stream, holder))
        if refused is not None and monotonic() < refused.until:
            return 0
        seen = self._seen.get((stream, holder))
        if seen is not None and seen[:2] == versions and monotonic() < seen[2]:
            return 0
        try:
            return self._keep(stream, holder, store)
        except (*AWAY, HolderAway, EngineStopped):
            raise
        except Exception as error:
            about = {"stream": stream, "holder": holder, "error": f"{type(error).__name__}: {error}"}
            passing = isinstance(error, UNFINISHED)
            level = logging.WARNING if passing else logging.ERROR
            logger.log(level, "lease_budget_failed", exc_info=not passing, extra=about)
            self._rest(stream, holder, versions)
            return 0

    def _rest(self, stream: str, holder: str, versions: tuple[int, int]) -> None:
        """Nothing is to be done until one of the sides changes, or an end came near."""
        self._seen[stream, holder] = (*versions, monotonic() + self._settings.look_seconds)

    def _wait_longer(self, stream: str, holder: str) -> None:
        """Who was overtaken looks again at once; what is refused for good is tried ever less often."""
        refused = self._refused.get((stream, holder))
        longer = self._settings.poll_seconds if refused is None else 2 * refused.seconds
        seconds = min(longer, self._settings.refused_seconds_max)
        self._refused[stream, holder] = Refused(seconds, monotonic() + seconds)

    def _keep(self, stream: str, holder: str, store: Store) -> int:
        """Until both sides of one budget are at rest, or for some rounds."""
        sent = 0
        for _ in range(self._settings.rounds_max):
            home = self._home.side(stream)
            with _of_holder():
                there = store.side(stream)
            versions = (home.version, there.version)
            if holder not in holders_of(home):
                self._rest(stream, holder, versions)
                return sent
            books = home_books(home, holder)
            term = self._settings.term_seconds
            taken = is_taken(there.budget)
            if taken and books.shared and self._seen.get((stream, holder), ())[:2] != versions:
                logger.warning("lease_holder_has_its_own_budget", extra={"stream": stream, "holder": holder})
            steps = next_steps(books, purses(there.budget), now=home.now, term_seconds=term, is_taken=taken)
            if steps:
                self._checkpoint(At.LOOKED)
            for step in steps:
                if not self._send(stream, step, home, there, store):
                    self._wait_longer(stream, holder)
                    return sent
                sent += 1
                if step.side == "holder":
                    self._refused.pop((stream, holder), None)
            if not steps:
                self._refused.pop((stream, holder), None)
                self._rest(stream, holder, versions)
                return sent
        return sent

    def _send(self, stream: str, step: Step, home: Side, there: Side, holder: Store) -> bool:
        """Send one step and wait for its answer. What is refused was overtaken by somebody: look again later."""
        name = command_id(step.command, home.version, there.version)
        realm = parse_stream(stream).realm
        envelope = CommandEnvelope(realm, name, step.command, ACTOR, name)
        self._checkpoint(At.SENDING)
        if step.side == "home":
            answer = self._home.execute(envelope)
        else:
            with _of_holder():
                answer = holder.execute(envelope)
        self._checkpoint(At.ANSWERED)
        if not answer.accepted:
            about = {"stream": stream, "command_type": step.command.type, "code": answer.code, "detail": answer.detail}
            logger.warning("lease_step_refused", extra=about)
        return answer.accepted


@contextmanager
def _of_holder() -> Iterator[None]:
    """What is asked of a holder's store, so that it and not home is blamed. Raises HolderAway."""
    try:
        yield
    except AWAY as error:
        raise HolderAway(f"{type(error).__name__}: {error}") from error


def keeper_loop(keeper: LeaseKeeper, settings: KeeperSettings) -> WorkerLoop:
    """What runs a keeper until it is stopped."""
    pace = Pace(settings.poll_seconds, settings.poll_seconds, settings.backoff_seconds_max)
    return WorkerLoop("leases", keeper.run_once, keeper.close, pace)
