"""The base of all events."""

from typing import ClassVar

from contracts.values import Value


class Event(Value):
    """Something that happened, in the past tense. ``type`` is the name it is stored under, for ever.

    An event gains optional fields only; a new meaning is a new version with an upcaster
    (:mod:`contracts.registry`).
    """

    type: ClassVar[str]
