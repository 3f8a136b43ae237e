"""The network between the parts: a TCP proxy for each link, in a process of its own, that fails on demand.

::

    with Network() as network:
        port = network.open("api-1→postgres", ("127.0.0.1", 5432))
        network.fail("api-1→postgres", "half_open")  # What is open falls silent for good; new lines are fine.
        network.heal("api-1→postgres")

A process of its own, because what passes the traffic on must neither be a victim nor wait for one.
"""

import asyncio
import contextlib
import json
import random
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from tests.chaos.obedient import Obedient

LOOPBACK: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
LATENCY_SECONDS: Final = 0.05
CUT_AFTER_SECONDS_MAX: Final = 0.3
# So long after a line fell silent a keep-alive of the operating system would have noticed at the latest.
SILENT_SECONDS_MAX: Final = 20.0

NetworkFault = Literal["latency", "reset", "half_open", "one_way", "partition"]
NETWORK_FAULTS: Final[tuple[NetworkFault, ...]] = get_args(NetworkFault)
Address = tuple[str, int]


@dataclass(eq=False, slots=True)
class _Line:
    """One connection: the transports of both ends, and whether it is one that neither end hears of again."""

    ends: list[asyncio.WriteTransport] = field(default_factory=list)
    is_silent: bool = False
    buried: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        """End it without a farewell: both ends get a RST."""
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.abort()
        self.buried.set()


class _Link:
    """One listener and its lines. Faults are states of it; :meth:`heal` ends them."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self._lines: set[_Line] = set()
        self._questions, self._answers = asyncio.Event(), asyncio.Event()  # Set: they pass.
        self._delay_seconds = 0.0
        self._cuts = False
        self._chance = random.Random()
        self.heal()

    def heal(self) -> None:
        """New lines are good, and so are old ones that were not ended or silenced."""
        self._questions.set()
        self._answers.set()
        self._delay_seconds = 0.0
        self._cuts = False

    def fail(self, kind: NetworkFault) -> None:
        """Begin to fail."""
        match kind:
            case "latency":
                self._delay_seconds = LATENCY_SECONDS
            case "reset":
                self._cuts = True
                for line in list(self._lines):
                    line.reset()
            case "half_open":
                for line in list(self._lines):
                    line.is_silent = True
                    asyncio.get_running_loop().call_later(SILENT_SECONDS_MAX, line.reset)
            case "one_way":
                self._answers.clear()
            case "partition":
                self._questions.clear()
                self._answers.clear()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection from its beginning to its end."""
        line = _Line([to_client.transport])
        self._lines.add(line)
        try:
            await self._questions.wait()  # Nobody hears of somebody who cannot get through.
            server, to_server = await asyncio.open_connection(*self.target)
            line.ends.append(to_server.transport)
            if self._cuts:
                asyncio.get_running_loop().call_later(self._chance.uniform(0, CUT_AFTER_SECONDS_MAX), line.reset)
            await asyncio.gather(
                self._pass(line, client, to_server, self._questions),
                self._pass(line, server, to_client, self._answers),
            )
        except OSError:
            line.reset()  # The server is not there, or one end is gone: the other one hears of it.
        finally:
            self._lines.discard(line)
            for end in line.ends:
                end.close()

    async def _pass(
        self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        while data := await source.read(CHUNK_BYTES):
            await self._hold_back(line, gate)
            sink.write(data)
            await sink.drain()
        await self._hold_back(line, gate)
        with contextlib.suppress(OSError):
            sink.write_eof()

    async def _hold_back(self, line: _Line, gate: asyncio.Event) -> None:
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds * self._chance.uniform(0.5, 1.5))
        if not gate.is_set():
            await gate.wait()
        if line.is_silent:
            await line.buried.wait()
            raise ConnectionResetError


class _Exchange:
    """All links, and what the parent asks for: one JSON line each, answered by one."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do one thing."""
        doings: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "open": self._open,
            "aim": self._aim,
            "fail": self._fail,
            "heal": self._heal,
        }
        return await doings[order["do"]](order)

    async def _open(self, order: dict[str, Any]) -> dict[str, Any]:
        link = self._links[order["link"]] = _Link(tuple(order["target"]))
        server = await asyncio.start_server(link.serve, LOOPBACK, order["port"], backlog=256)
        return {"port": server.sockets[0].getsockname()[1]}

    async def _aim(self, order: dict[str, Any]) -> dict[str, Any]:
        self._links[order["link"]].target = tuple(order["target"])
        return {}

    async def _fail(self, order: dict[str, Any]) -> dict[str, Any]:
        self._links[order["link"]].fail(order["kind"])
        return {}

    async def _heal(self, order: dict[str, Any]) -> dict[str, Any]:
        self._links[order["link"]].heal()
        return {}


async def _obey_the_parent() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    exchange = _Exchange()
    while line := await reader.readline():  # Its end is ours: nothing is left behind when the parent dies.
        told = await exchange.obey(json.loads(line))
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


class Network(Obedient):
    """The proxies, from outside. Safe for several threads. Errors: RuntimeError when their process has ended."""

    module = "tests.chaos.network"

    def open(self, link: str, target: Address, port: int = 0) -> int:
        """Listen for a link; returns the port (``port`` if one is named)."""
        return int(self._order({"do": "open", "link": link, "target": list(target), "port": port})["port"])

    def aim(self, link: str, target: Address) -> None:
        """From now on new lines go there."""
        self._order({"do": "aim", "link": link, "target": list(target)})

    def fail(self, link: str, kind: NetworkFault) -> None:
        """Begin to fail, until :meth:`heal`."""
        self._order({"do": "fail", "link": link, "kind": kind})

    def heal(self, link: str) -> None:
        """End every fault of a link; half-open lines stay silent for good."""
        self._order({"do": "heal", "link": link})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business.
    asyncio.run(_obey_the_parent())
