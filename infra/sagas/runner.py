"""The ear on the log itself: one process at a time moves, the others are ready."""

from typing import Final

from contracts.events import SagaHeard, SagaResolved
from infra.sagas.checkpoints import At
from infra.sagas.ear import Ear
from infra.sagas.ports import FOLLOWER, Move

_OWN: Final = frozenset({SagaHeard.type, SagaResolved.type})  # What sagas remember is no news to them.


class SagaRunner(Ear):
    """Reads the store feed. Several processes may try, one of them moves at a time."""

    _offset: int | None = None  # None: to be read; so are the parked streams.

    @property
    def offset(self) -> int:
        """Up to where the log was heard; 0 before the first look."""
        return self._offset or 0

    def _run_once(self) -> int:
        offset = self._start()
        retried = self._retry_requeued()
        batch, until = self._feed.read_on(offset, self._settings.facts_max, _OWN)
        if until == offset:
            return retried
        self._checkpoint(At.FACTS_READ)
        hearing = self._hear(batch, self._parked)
        self._checkpoint(At.FACTS_DECIDED)
        self._keep(hearing, (Move(FOLLOWER, offset, until),))
        self._offset = until
        self._checkpoint(At.MEMORY_COMMITTED)
        return retried + max(len(batch), 1)

    def _start(self) -> int:
        if self._offset is None:
            self._offset, self._parked = self._store.place()
        return self._offset

    def _forget(self) -> None:
        super()._forget()
        self._offset = None

    def _here(self, stream: str) -> Move:
        return Move(FOLLOWER, self.offset, self.offset)
