"""A realm's keys at hand: opens what people type, and seals what is exported. Keys are remembered for seconds."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from time import monotonic
from typing import Final, NamedTuple

from contracts.codes import batch_id_of
from contracts.identity import Realm
from infra.codes import text
from infra.codes.sealer import Sealer

# How long a deleted key may still be honoured by a process that has just seen it.
MEMORY_SECONDS: Final = 3.0
REALMS_REMEMBERED_MAX: Final = 1_000

# Key id -> secret, those that have one, the latest first.
Secrets = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Found:
    """Where a code belongs."""

    batch_id: str
    index: int


class _Remembered(NamedTuple):
    sealers: tuple[Sealer, ...]
    until: float


class CodeRing:
    """Knows the keys of realms. ``secrets`` asks the store; it blocks, so it runs on ``blocking``.

    Its sealers belong to the event loop's thread.
    """

    def __init__(
        self, secrets: Callable[[Realm], Secrets], blocking: Executor, *, memory_seconds: float = MEMORY_SECONDS
    ) -> None:
        self._secrets = secrets
        self._blocking = blocking
        self._memory_seconds = memory_seconds
        self._remembered: OrderedDict[Realm, _Remembered] = OrderedDict()

    async def find(self, realm: Realm, typed: str) -> Found | None:
        """Where a code belongs; None for what is mistyped (known without any key), foreign or made up.

        Every key is tried, also once one has opened it. Raises StoreUnavailable.
        """
        if (symbols := text.read(typed)) is None:
            return None
        tried = [(sealer.key_id, sealer.open(symbols)) for sealer in await self._sealers(realm)]
        for key_id, opened in tried:
            if opened is not None:
                return Found(batch_id_of(key_id, opened.number), opened.index)
        return None

    async def sealer(self, realm: Realm, key_id: str) -> Sealer | None:
        """A sealer of one's own, for any one thread; None when the key was deleted. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        secrets = await loop.run_in_executor(self._blocking, self._secrets, realm)
        return Sealer.of(realm, key_id, secrets[key_id]) if key_id in secrets else None

    async def _sealers(self, realm: Realm) -> tuple[Sealer, ...]:
        remembered = self._remembered.get(realm)
        if remembered is not None and remembered.until > monotonic():
            return remembered.sealers
        loop = asyncio.get_running_loop()
        secrets = await loop.run_in_executor(self._blocking, self._secrets, realm)
        sealers = tuple(Sealer.of(realm, key_id, secret) for key_id, secret in secrets.items())
        self._remembered[realm] = _Remembered(sealers, monotonic() + self._memory_seconds)
        self._remembered.move_to_end(realm)
        while len(self._remembered) > REALMS_REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return sealers
