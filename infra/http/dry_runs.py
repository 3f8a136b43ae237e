"""Dry runs over HTTP: those that are asked for while a look is under way share the next one."""

import asyncio
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from datetime import datetime
from typing import Final, Protocol

from command.dry_runs import BetterAlone, DryRuns
from command.ports import StoreUnavailable
from contracts.envelope import Answer, CommandEnvelope
from infra import fiber
from infra.http.gathering import Gathering
from infra.shards.router import NotPlaceable, Router

TIMEOUT_SECONDS: Final = 30.0
AGAIN_WITHIN_SECONDS: Final = 2.0
TOGETHER_MAX: Final = 16  # They are decided on the event loop, in one go: nobody else is served for so long.


class DryRun(Protocol):
    """What would be answered, now or at another business time, storing nothing."""

    async def __call__(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """Raises StoreUnavailable, HandlerFailed, StreamClosed or TimeoutError."""
        ...


class DryRunByItself(Protocol):
    """As an engine has it. Blocks."""

    def __call__(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """Raises StoreUnavailable, HandlerFailed or StreamClosed."""
        ...


class DryRunsOfStore:
    """Dry runs on one store. Implements :class:`DryRun`; those at another time are decided each by itself."""

    def __init__(self, together: DryRuns, by_itself: DryRunByItself, blocking: Executor) -> None:
        self._together = together
        self._by_itself = by_itself
        self._blocking = blocking
        self._gathering = Gathering(self._answers, TIMEOUT_SECONDS, keys_max=TOGETHER_MAX)

    async def __call__(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """What would be answered."""
        if at is not None:
            return await self._alone(envelope, at)
        asked = _Asked(envelope)
        outcome = (await self._gathering.find((asked,)))[asked]
        try:
            if isinstance(outcome, BetterAlone):
                return await self._alone(envelope)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        finally:
            del outcome  # Its traceback has this frame, and the frame would have it: garbage with all of the request.

    async def _alone(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        work = asyncio.get_running_loop().run_in_executor(self._blocking, self._by_itself, envelope, at)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await work

    async def _answers(self, asked: Collection["_Asked"]) -> Mapping["_Asked", Answer | Exception]:
        envelopes, loop = [each.envelope for each in asked], asyncio.get_running_loop()
        began = loop.time()
        try:
            answers = await fiber.run(lambda: self._together.answers(envelopes))
        except StoreUnavailable:
            # A connection that idled may have died with a server that was restarted since, and a restored store is
            # noticed once: that is told at once. A store that says nothing is not waited for a second time.
            if loop.time() - began > AGAIN_WITHIN_SECONDS:
                raise
            answers = await fiber.run(lambda: self._together.answers(envelopes))
        return dict(zip(asked, answers, strict=True))


class PlacedDryRuns:
    """Dry runs of several shards, each where its command is decided. Implements :class:`DryRun`."""

    def __init__(self, router: Router, by_shard: Mapping[int, DryRun]) -> None:
        self._router = router
        self._by_shard = by_shard

    async def __call__(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """What would be answered; a refusal for what belongs to no shard."""
        try:
            shard = self._router.shard_of(envelope)
        except NotPlaceable as error:
            return self._router.refused(envelope, error)
        return await self._by_shard[shard](envelope, at)


class _Asked:
    """One that was asked for; the same command asked for twice is two."""

    __slots__ = ("envelope",)

    def __init__(self, envelope: CommandEnvelope) -> None:
        self.envelope = envelope
