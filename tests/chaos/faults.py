"""What can be done to a running stack: kill a process, freeze it, kill one session of the database, fail a link."""

import os
import random
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import sleep
from typing import Final, Protocol

from tests.chaos.network import NETWORK_FAULTS, NetworkFault
from tests.chaos.services import descendants
from tests.chaos.stack import CALLERS, CLICKHOUSE, KAFKA, POSTGRES, REDIS, Stack
from tests.chaos.watch import FACTS, MODELS, RELAY, SAGAS

FROZEN_SECONDS: Final = (1.0, 5.0)  # Shortest, longest.
FAILING_SECONDS: Final = (1.0, 5.0)
DISTRIBUTIONS: Final = "distributions"
POSTGRES_SESSION: Final = "postgres session"
# How many of each kind, where all are wanted.
WEIGHTS: Final[Mapping[str, int]] = {"kill": 6, "network": 3, "freeze": 1}


class Fault(Protocol):
    """One thing that goes wrong. ``kind`` and ``victim`` name it in the results."""

    @property
    def kind(self) -> str: ...

    @property
    def victim(self) -> str: ...

    def happen(self, stack: Stack) -> None:
        """Do it; returns when it is over (the recovery is not)."""
        ...


@dataclass(frozen=True)
class Concerned:
    """Who has to serve again after a fault.

    ``servers``: API processes that have to answer, or the way by topic; none: any will do. ``followers``: who has to
    have digested something that was sent afterwards. ``reads``: whether those servers have to say that they can read.
    ``gives``: whether coupons have to be given away again.
    """

    servers: Collection[str] = ()
    followers: Collection[str] = ()
    reads: bool = False
    gives: bool = False


def concerned(victim: str, stack: Stack) -> Concerned:
    """By a fault of a process, an engine or a link: by ``api-1→redis`` that is ``api-1``."""
    name, _, engine = victim.partition("→")
    if name == CALLERS:
        return Concerned((engine,))
    role = name.partition("-")[0]
    if role == "api":
        return Concerned((name,), reads=engine == REDIS)
    return {
        "sagas": Concerned(followers=(SAGAS,)),
        "projections": Concerned(followers=(MODELS, FACTS)),
        DISTRIBUTIONS: Concerned(gives=True),
        "relay": Concerned(followers=(RELAY,)),
        "intake": Concerned((KAFKA,)),
        REDIS: Concerned(followers=(MODELS,)),
        CLICKHOUSE: Concerned(followers=(FACTS,)),
        KAFKA: Concerned((KAFKA,), (RELAY, SAGAS, MODELS, FACTS)),
        POSTGRES: Concerned(tuple(stack.servers), (SAGAS,)),
        POSTGRES_SESSION: Concerned(tuple(stack.servers), (SAGAS,)),
    }[role]


def hits_the_same(one: str, other: str) -> bool:
    """Whether two victims are one, so that the second fault has to wait for the end of the first."""
    return one.partition(" ")[0] == other.partition(" ")[0]


@dataclass(frozen=True)
class Kill:
    """``kill -9``; the init system starts it again."""

    victim: str
    kind: str = "kill"

    def happen(self, stack: Stack) -> None:
        stack.services[self.victim].kill()


@dataclass(frozen=True)
class KillSession:
    """``kill -9`` of one server process of PostgreSQL: the server ends all sessions and recovers."""

    choice: int
    victim: str = POSTGRES_SESSION
    kind: str = "kill"

    def happen(self, stack: Stack) -> None:
        sessions = list(descendants(stack.services[POSTGRES].pid))
        first = self.choice % max(1, len(sessions))
        for pid in (*sessions[first:], *sessions[:first]):
            with suppress(ProcessLookupError):  # It said good-bye just now: the next one, then.
                os.kill(pid, signal.SIGKILL)
                return


@dataclass(frozen=True)
class Freeze:
    """SIGSTOP, and SIGCONT some seconds later."""

    victim: str
    seconds: float
    kind: str = "freeze"

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

    def happen(self, stack: Stack) -> None:
        stack.network.fail(self.victim, self.kind)
        try:
            sleep(self.seconds if self.kind != "half_open" else 0.0)
        finally:
            stack.network.heal(self.victim)


def schedule(
    stack: Stack, chance: random.Random, kinds: Sequence[str], victims: Collection[str] = ()
) -> Iterator[Fault]:
    """Faults without end: of each kind every possible one in turn, in an order that chance chooses anew every time.

    ``kinds``: which of ``kill``, ``freeze``, ``network`` are wanted; ``victims``: only these, when some are named.
    """
    bags: dict[str, list[Fault]] = {}
    kinds = [kind for kind in kinds if _possible(kind, stack, chance, victims)]
    if not kinds:
        raise ValueError(f"nothing can be done to {', '.join(victims)}; there are {', '.join(stack.services)}")
    while True:
        (kind,) = chance.choices(kinds, [WEIGHTS[each] for each in kinds])
        if not bags.get(kind):
            bags[kind] = _possible(kind, stack, chance, victims)
            chance.shuffle(bags[kind])
        yield bags[kind].pop()


def _possible(kind: str, stack: Stack, chance: random.Random, victims: Collection[str]) -> list[Fault]:
    every: dict[str, list[Fault]] = {
        "kill": [*map(Kill, stack.services), KillSession(chance.randrange(1_000))],
        "freeze": [Freeze(name, chance.uniform(*FROZEN_SECONDS)) for name in stack.services],
        "network": [
            FailLink(link, kind, chance.uniform(*FAILING_SECONDS)) for link in stack.links for kind in NETWORK_FAULTS
        ],
    }
    return [fault for fault in every[kind] if not victims or fault.victim in victims]
