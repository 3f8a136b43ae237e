"""The base of all commands."""

from typing import ClassVar

from contracts.values import StrictValue


class Command(StrictValue):
    """Something that somebody wants, in the imperative. ``type`` is its name in batches, command log and sagas."""

    type: ClassVar[str]
