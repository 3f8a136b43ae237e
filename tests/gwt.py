"""given(...).when(...).then(...): command handlers on an in-memory unit of work that folds each stream.

::

    given(template(stock=1)).when(claim("alice")).then([TemplateCouponIssued(...), CouponClaimed(...)])
    given([draft]).when(ClaimCoupon(template_id="t1", user_id="alice")).then_refused(NotActive)

History is given as commands (they are handled, and must be accepted) or as :class:`At` events put on a stream past the
deciders. What a handler touches, counts or does in a rush is not tried here: ``tests/unit/test_rushes.py`` and
``test_guesses.py`` hold those against deciding one by one. :class:`World` is the same thing open-ended, for tests that
go on and on.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from command.handlers import HANDLERS, KINDS
from command.unit_of_work import Kind, NotYet
from contracts.commands import Command
from contracts.events import Event
from contracts.events.series import EventSeries
from contracts.identity import Realm
from contracts.refusals import Refusal

S = TypeVar("S")
E = TypeVar("E", bound=Event)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)  # A Monday.
LOCK_TTL_SECONDS = 900


class At(NamedTuple):
    """Events on one stream, given past the deciders."""

    kind: Kind[Any]
    key: str
    events: Sequence[Event]


class Wait(NamedTuple):
    """Time passes in a given history."""

    seconds: float


class Recorded(NamedTuple):
    """One event and the stream that it is on."""

    kind: str
    key: str
    event: Event


class InMemoryUnitOfWork:
    """One command's view of a :class:`World`; hand-written, so that tests depend on the protocol alone."""

    def __init__(self, world: "World", command_id: str, now: datetime) -> None:
        self.realm = world.realm
        self.command_id = command_id
        self.command_ids = (command_id,)
        self.now = now
        self.lock_ttl_seconds = LOCK_TTL_SECONDS
        self.recorded: list[Recorded] = []
        self._states = dict(world.states)
        self._counts = dict(world.counts)
        self._world = world

    def load(self, kind: Kind[S], key: str) -> S:
        """The state of one stream."""
        state: S = self._states.get((kind.name, key), kind.initial)
        return state

    def load_all(self, kind: Kind[S], keys: Sequence[str]) -> list[S]:
        """The states of several streams."""
        return [self.load(kind, key) for key in keys]

    def record(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        """Fold events into the stream's state."""
        state = self.load(kind, key)
        for event in events:
            self.recorded.append(Recorded(kind.name, key, event))
            state = kind.evolve(state, event)
        self._states[kind.name, key] = state
        return state

    def create(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        """Start a stream; a second start is what the store's key would refuse."""
        assert self.load(kind, key) == kind.initial, f"{kind.name}/{key} was created twice"
        return self.record(kind, key, events)

    def create_each(self, kind: Kind[S], keys: Sequence[str], events: EventSeries) -> None:
        """Start many streams with one event each."""
        for key, event in zip(keys, events, strict=True):
            self.create(kind, key, (event,))

    def create_by_each(self, kind: Kind[S], keys: Sequence[str], events: EventSeries) -> None:
        """Start a stream for each command of a rush."""
        self.create_each(kind, keys, events)

    def count(self, key: str) -> int:
        """A guard counter."""
        return self._counts.get(key, 0)

    def counts(self, keys: Collection[str]) -> list[int]:
        """Many guard counters."""
        return [self.count(key) for key in keys]

    def add_one_each(self, keys: Sequence[str]) -> None:
        """Change many guard counters."""
        for key in keys:
            self.add(key, 1)

    def add(self, key: str, by: int) -> None:
        """Change a guard counter."""
        self._counts[key] = self.count(key) + by
        assert self._counts[key] >= 0, f"counter {key} fell below zero"

    def keep(self) -> None:
        """What a commit does."""
        self._world.states = self._states
        self._world.counts = self._counts
        self._world.log.extend(self.recorded)


@dataclass
class World:
    """Everything that was recorded so far, and a clock that stands still until told otherwise."""

    now: datetime = NOON
    realm: Realm = Realm("acme", "shop")  # noqa: RUF009 - immutable
    states: dict[tuple[str, str], Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    log: list[Recorded] = field(default_factory=list)
    commands: int = 0

    def send(self, command: Command, *, dry_run: bool = False) -> dict[str, Any]:
        """Handle a command as the engine does: all of it or, when it is refused, nothing. Returns the answer's data."""
        self.commands += 1
        unit = InMemoryUnitOfWork(self, f"command-{self.commands}", self.now)
        data: dict[str, Any] = HANDLERS[type(command)].handle(unit, command)
        if not dry_run:
            unit.keep()
        return data

    def put(self, kind: Kind[Any], key: str, *events: Event) -> None:
        """Append events past the deciders."""
        unit = InMemoryUnitOfWork(self, "planted", self.now)
        unit.record(kind, key, events)
        unit.keep()

    def wait(self, seconds: float = 0, **more: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds, **more)

    def state(self, kind: Kind[S], key: str) -> S:
        """A stream's state."""
        state: S = self.states.get((kind.name, key), kind.initial)
        return state

    def events(self, of: type[E]) -> list[E]:
        """Every event of one type, in the order of the log."""
        return [entry.event for entry in self.log if isinstance(entry.event, of)]

    def stream(self, kind: Kind[Any], key: str) -> list[Event]:
        """The events of one stream."""
        return [entry.event for entry in self.log if (entry.kind, entry.key) == (kind.name, key)]


Past = Command | At | Wait


class Given:
    """A world with a history."""

    def __init__(self, world: World) -> None:
        self.world = world

    def and_given(self, past: Past | Iterable[Past]) -> "Given":
        """More history."""
        for step in [past] if isinstance(past, Command | At | Wait) else past:
            match step:
                case Wait(seconds):
                    self.world.wait(seconds)
                case At(kind, key, events):
                    self.world.put(kind, key, *events)
                case command:
                    self.world.send(command)
        return self

    def when(self, *commands: Command, after: float = 0) -> "When":
        """The commands under test, ``after`` so many seconds."""
        self.world.wait(after)
        return When(self.world, commands)


class When:
    """What happened to the commands under test: what they recorded, or why they were refused."""

    def __init__(self, world: World, commands: Sequence[Command]) -> None:
        self.world = world
        self.data: dict[str, Any] = {}
        self.refusal: Refusal | None = None
        self.not_yet: NotYet | None = None
        start = len(world.log)
        try:
            for command in commands:
                self.data = world.send(command)
        except Refusal as refusal:
            self.refusal = refusal
        except NotYet as not_yet:
            self.not_yet = not_yet
        self.recorded = world.log[start:]

    @property
    def events(self) -> list[Event]:
        """What was recorded, in order."""
        assert self.refusal is None, f"refused: {self.refusal!r}"
        assert self.not_yet is None, f"not yet: {self.not_yet!r}"
        return [entry.event for entry in self.recorded]

    def then(self, expected: Sequence[Event | type[Event]] = ()) -> "When":
        """Exactly these events, each given whole or by its type only."""
        found = self.events
        shown = [type(event) if isinstance(want, type) else event for event, want in zip(found, expected, strict=False)]
        assert [*shown, *found[len(expected) :]] == list(expected)
        return self

    def then_nothing(self) -> "When":
        """Accepted, and nothing new."""
        return self.then([])

    def then_refused(self, code: type[Refusal] | str) -> "When":
        """Refused for this reason; nothing was recorded."""
        expected = code if isinstance(code, str) else code.code
        assert self.refusal is not None, f"accepted: {self.recorded}"
        assert self.refusal.code == expected
        return self

    def then_not_yet(self) -> None:
        """Neither accepted nor refused: it has to come again under the same id. Nothing was recorded."""
        assert self.not_yet is not None, f"decided: {self.recorded or self.refusal!r}"
        assert not self.recorded

    def then_answered(self, **data: Any) -> "When":
        """The answer says at least this."""
        assert self.refusal is None, f"refused: {self.refusal!r}"
        assert {key: self.data.get(key) for key in data} == data
        return self


def given(past: Past | Iterable[Past] = (), *, now: datetime = NOON) -> Given:
    """A new world with this history, at ``now``."""
    return Given(World(now=now)).and_given(past)


__all__ = [
    "KINDS",
    "LOCK_TTL_SECONDS",
    "NOON",
    "At",
    "Given",
    "InMemoryUnitOfWork",
    "Recorded",
    "Wait",
    "When",
    "World",
    "given",
]
