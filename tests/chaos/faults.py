"""What can be done to a running stack: kill a process, freeze it, kill one session of the database, fail a link."""

import os
import random
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import sleep
from typing import Final, Protocol

from tests.chaos.network import NETWORK_FAULTS, NetworkFault
from tests.chaos.services import descendants
from tests.chaos.stack import CALLERS, KAFKA, POSTGRES, Stack

FROZEN_SECONDS: Final = (1.0, 5.0)  # Shortest, longest.
FAILING_SECONDS: Final = (1.0, 5.0)


class Fault(Protocol):
    """One thing that goes wrong. ``kind`` and ``victim`` name it in the results."""

    @property
    def kind(self) -> str: ...

    @property
    def victim(self) -> str: ...

    @property
    def server(self) -> str | None:
        """The API process, or the way by topic, that has to serve again, if it is that which suffers."""
        ...

    def happen(self, stack: Stack) -> None:
        """Do it; returns when it is over (the recovery is not)."""
        ...


def _server_of(name: str) -> str | None:
    """``api-1`` of itself and of its links; whoever takes in or carries what comes by topic."""
    parts = name.split("→")
    if name in {KAFKA, f"{CALLERS}→{KAFKA}"} or name.startswith("intake-"):
        return KAFKA
    return next((each for each in parts if each.startswith("api-")), None)


@dataclass(frozen=True)
class Kill:
    """``kill -9``; the init system starts it again."""

    victim: str
    kind: str = "kill"

    @property
    def server(self) -> str | None:
        return _server_of(self.victim)

    def happen(self, stack: Stack) -> None:
        stack.services[self.victim].kill()


@dataclass(frozen=True)
class KillSession:
    """``kill -9`` of one server process of PostgreSQL: the server ends all sessions and recovers."""

    choice: int
    victim: str = "postgres session"
    kind: str = "kill"
    server: str | None = None

    def happen(self, stack: Stack) -> None:
        sessions = list(descendants(stack.services[POSTGRES].pid))
        if sessions:
            with suppress(ProcessLookupError):
                os.kill(sessions[self.choice % len(sessions)], signal.SIGKILL)


@dataclass(frozen=True)
class Freeze:
    """SIGSTOP, and SIGCONT some seconds later."""

    victim: str
    seconds: float
    kind: str = "freeze"

    @property
    def server(self) -> str | None:
        return _server_of(self.victim)

    def happen(self, stack: Stack) -> None:
        service = stack.services[self.victim]
        service.freeze()
        try:
            sleep(self.seconds)
        finally:
            service.thaw()


@dataclass(frozen=True)
class FailLink:
    """One of the proxies' faults, for some seconds. Half-open lines stay silent for good."""

    victim: str
    kind: NetworkFault
    seconds: float

    @property
    def server(self) -> str | None:
        return _server_of(self.victim)

    def happen(self, stack: Stack) -> None:
        stack.network.fail(self.victim, self.kind)
        try:
            sleep(self.seconds if self.kind != "half_open" else 0.0)
        finally:
            stack.network.heal(self.victim)


def schedule(
    stack: Stack, chance: random.Random, kinds: Sequence[str], victims: Collection[str] = ()
) -> Iterator[Fault]:
    """Faults without end: every possible one in turn, in an order that chance chooses anew for every round.

    ``kinds``: which of ``kill``, ``freeze``, ``network`` are wanted; ``victims``: only these, when some are named.
    """
    while True:
        faults: list[Fault] = []
        if "kill" in kinds:
            faults += [Kill(name) for name in stack.services] * 2
            faults += [KillSession(chance.randrange(1_000)) for _ in range(2)]
        if "freeze" in kinds:
            faults += [Freeze(name, chance.uniform(*FROZEN_SECONDS)) for name in stack.services]
        if "network" in kinds:
            faults += [
                FailLink(link, kind, chance.uniform(*FAILING_SECONDS))
                for link in stack.links
                for kind in NETWORK_FAULTS
            ]
        if victims and not (faults := [fault for fault in faults if fault.victim in victims]):
            raise ValueError(f"nothing can be done to {', '.join(victims)}; there are {', '.join(stack.services)}")
        chance.shuffle(faults)
        yield from faults
