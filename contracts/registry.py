"""Stored names to classes, and upcasters from the versions that were once written."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from contracts.commands import ALL_COMMANDS
from contracts.commands.base import Command
from contracts.events import ALL_EVENTS
from contracts.events.base import Event

Payload = dict[str, Any]
Upcaster = Callable[[Payload], tuple[str, Payload]]


class UnknownEventType(Exception):
    """The log holds an event that this binary does not know; a follower must stop, not skip."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown event type {name!r}: it was written by a newer version; upgrade this process")
        self.name = name


class UnknownCommandType(Exception):
    """A batch or a saga named a command that does not exist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown command type {name!r}")
        self.name = name


class EventRegistry:
    """Knows the class of every current event name and how to lift each former name to a current one."""

    def __init__(self, events: tuple[type[Event], ...], upcasters: Mapping[str, Upcaster] | None = None) -> None:
        self._classes = {event.type: event for event in events}
        if len(self._classes) != len(events):
            raise ValueError("two event classes share one stored name")
        self._upcasters = dict(upcasters or {})
        if clash := self._classes.keys() & self._upcasters.keys():
            raise ValueError(f"both current and former: {sorted(clash)}")

    @property
    def names(self) -> frozenset[str]:
        """The current names."""
        return frozenset(self._classes)

    def load(self, name: str, payload: Payload) -> Event:
        """Lift a payload through the upcasters to its current version and parse it.

        Raises UnknownEventType, or pydantic's ValidationError for a broken payload.
        """
        for _ in range(len(self._upcasters) + 1):
            if (known := self._classes.get(name)) is not None:
                return known.model_validate(payload, strict=False)
            if (upcast := self._upcasters.get(name)) is None:
                break
            name, payload = upcast(payload)
        raise UnknownEventType(name)


# Former names and how to lift them one version up, e.g. {"coupon.claimed.v1": lift_coupon_claimed_v1}.
UPCASTERS: Final[dict[str, Upcaster]] = {}

EVENTS: Final = EventRegistry(ALL_EVENTS, UPCASTERS)

COMMANDS: Final[dict[str, type[Command]]] = {command.type: command for command in ALL_COMMANDS}


def command_class(name: str) -> type[Command]:
    """The command class of a name. Raises UnknownCommandType."""
    try:
        return COMMANDS[name]
    except KeyError:
        raise UnknownCommandType(name) from None
