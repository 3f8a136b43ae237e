"""Load over HTTP: connections that are kept alive, each with one request under way, driven by one epoll loop."""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from benchmarks.figures import Latencies
from infra.processes import LOOPBACK

ANSWER_SECONDS: Final = 30.0
RECEIVE_BYTES: Final = 65_536
_LENGTH: Final = b"content-length: "


class UnexpectedAnswer(RuntimeError):
    """A server said something else than the benchmark is about; the message shows it."""


@dataclass(frozen=True, slots=True)
class Served:
    """One measurement: answers within the window, and how long each took. ``requests``: all, the warm-up included."""

    per_second: float
    requests: int
    latencies: Latencies


class Connection:
    """One connection with one request in flight."""

    __slots__ = ("answer", "sent_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), timeout=ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        """Send the next request; it fits into the socket's buffer."""
        self.answer = b""
        self.sent_at = perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take in what came; whether the answer is whole. Raises UnexpectedAnswer when the server hung up."""
        came = self.socket.recv(RECEIVE_BYTES)
        if not came:
            raise UnexpectedAnswer(f"the server closed a connection; it had said {self.answer[:500]!r}")
        self.answer = self.answer + came if self.answer else came
        return is_whole(self.answer)


def is_whole(answer: bytes) -> bool:
    """Whether head and body are there. Raises UnexpectedAnswer for an answer that does not tell its length."""
    head_end = answer.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    start = answer.find(_LENGTH, 0, head_end + 2)
    if start < 0:
        raise UnexpectedAnswer(f"an answer without a length: {answer[:500]!r}")
    start += len(_LENGTH)
    return len(answer) >= head_end + 4 + int(answer[start : answer.find(b"\r", start)])


@contextmanager
def connected(port: int, count: int) -> Iterator[list[Connection]]:
    """Fresh connections (servers close idle ones), closed afterwards."""
    opened: list[Connection] = []
    try:
        while len(opened) < count:
            opened.append(Connection(port))
        yield opened
    finally:
        for each in opened:
            each.socket.close()


def closed_loop(
    port: int,
    request: Callable[[], bytes],
    *,
    connections: int,
    seconds: float,
    warm_seconds: float,
    status: bytes = b"HTTP/1.1 20",
) -> Served:
    """Every connection sends its next request when it has its answer. Raises UnexpectedAnswer, TimeoutError."""
    milliseconds: list[float] = []
    requests = 0
    with connected(port, connections) as opened, select.epoll() as poll:
        by_number = {each.socket.fileno(): each for each in opened}
        begin = perf_counter() + warm_seconds
        end = begin + seconds
        for number, each in by_number.items():
            poll.register(number, select.EPOLLIN)
            each.send(request())
        waiting = len(by_number)
        while waiting:
            ready = poll.poll(ANSWER_SECONDS)
            if not ready:
                raise TimeoutError(f"{waiting} requests were not answered within {ANSWER_SECONDS:.0f} s")
            for number, _ in ready:
                each = by_number[number]
                if not each.receive():
                    continue
                if not each.answer.startswith(status):
                    raise UnexpectedAnswer(repr(each.answer[:500]))
                now = perf_counter()
                requests += 1
                if begin <= now < end:
                    milliseconds.append((now - each.sent_at) * 1_000)
                if now < end:
                    each.send(request())
                else:
                    waiting -= 1
    return Served(len(milliseconds) / seconds, requests, Latencies.of(milliseconds))


def post(path: str, body: bytes, token: str) -> bytes:
    """A whole request, ready to be sent."""
    return (
        b"POST %s HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %s\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    ) % (path.encode(), token.encode(), len(body), body)
