"""A broker with a door for each client: only so can a proxy stand between one client and it.

Clients of Kafka find the broker by the address that it tells them itself, and it tells the same one to all who come
through the same listener.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from infra.embedded.kafka import EmbeddedKafka
from infra.processes import LOOPBACK


class Door(NamedTuple):
    """Where the broker listens for one client, and where it says that it does: at that client's proxy."""

    listens: int
    tells: int


class ManyDoors(EmbeddedKafka):
    """The embedded broker, with more listeners. ``doors``: by client.

    A Java machine that has to share two cores with everything else needs a minute and more to start.
    """

    start_seconds_max: ClassVar[float] = 240.0
    answer_poll_seconds: ClassVar[float] = 0.3  # To ask it costs the processor that it waits for.

    def __init__(self, folder: Path, doors: Mapping[str, Door]) -> None:
        super().__init__(folder)
        self._doors = {f"DOOR{number}": door for number, door in enumerate(doors.values())}

    def _write_properties(self, *, broker_port: int, controller_port: int) -> None:
        super()._write_properties(broker_port=broker_port, controller_port=controller_port)
        more = {
            "listeners": [f"{name}://{LOOPBACK}:{door.listens}" for name, door in self._doors.items()],
            "advertised.listeners": [f"{name}://{LOOPBACK}:{door.tells}" for name, door in self._doors.items()],
            "listener.security.protocol.map": [f"{name}:PLAINTEXT" for name in self._doors],
        }
        lines = []
        for line in self._properties.read_text().splitlines():
            name, _, value = line.partition("=")
            lines.append(f"{name}={','.join([value, *more.get(name, ())])}\n")
        self._properties.write_text("".join(lines))
