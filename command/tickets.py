"""Commands that wait for their batch, in order and within bounds."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from command.ports import CommandKey
from contracts.envelope import Answer, CommandEnvelope, digest_of

Outcome = Answer | Exception
Listener = Callable[[Outcome], None]


class Busy(Exception):
    """The queue is full. Nothing was stored: retry with the same command id."""


class NeverFits(Busy):
    """More than the whole queue holds was to be queued at once. Waiting does not help: send less at once."""


class EngineStopped(Exception):
    """The engine is shutting down. Nothing was stored: retry with the same command id."""


class Ticket:
    """A command in the queue and whoever waits for its answer."""

    __slots__ = ("content_bytes", "content_hash", "envelope", "key", "listener", "sent_from")

    def __init__(self, envelope: CommandEnvelope, listener: Listener) -> None:
        content = envelope.content()
        self.envelope = envelope
        self.listener = listener
        self.key = CommandKey(envelope.realm, envelope.command_id)
        self.content_hash = digest_of(content)
        self.content_bytes = len(content)
        # We tried to commit it and may have: in which epoch, and from which offset on its answer would be ours.
        self.sent_from: tuple[str | None, int] | None = None


class TicketQueue:
    """A queue bounded in commands and in bytes of their content. Many threads put, one takes."""

    def __init__(self, *, commands_max: int, bytes_max: int) -> None:
        self._commands_max = commands_max
        self._bytes_max = bytes_max
        self._tickets: deque[Ticket] = deque()
        self._bytes = 0
        self._closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def content_bytes(self) -> int:
        """How much content waits."""
        return self._bytes

    def put_all(self, tickets: Sequence[Ticket]) -> None:
        """Queue all of them, together and in order, or none. Raises Busy or EngineStopped."""
        size = sum([ticket.content_bytes for ticket in tickets])
        if len(tickets) > self._commands_max or size > self._bytes_max:
            bounds = f"{self._commands_max} commands of {self._bytes_max} bytes"
            raise NeverFits(f"{len(tickets)} commands of {size} bytes at once, and the queue holds {bounds}")
        with self._lock:
            if self._closed:
                raise EngineStopped("the engine is shutting down; retry with the same command id")
            if len(self._tickets) + len(tickets) > self._commands_max or self._bytes + size > self._bytes_max:
                waiting = f"{len(self._tickets)} commands of {self._bytes} bytes are waiting"
                raise Busy(f"{waiting}; retry with the same command id")
            self._tickets.extend(tickets)
            self._bytes += size

    def put_back(self, tickets: Sequence[Ticket]) -> None:
        """Put taken tickets in front again; they were let in once and are let in still."""
        with self._lock:
            self._tickets.extendleft(reversed(tickets))
            self._bytes += sum(ticket.content_bytes for ticket in tickets)

    def take(self, *, commands_max: int, bytes_max: int) -> list[Ticket]:
        """The first tickets, within both bounds; at least one, however large, when any waits."""
        taken: list[Ticket] = []
        size = 0
        with self._lock:
            tickets = self._tickets
            while tickets and len(taken) < commands_max and (not taken or size + tickets[0].content_bytes <= bytes_max):
                ticket = tickets.popleft()
                size += ticket.content_bytes
                taken.append(ticket)
            self._bytes -= size
        return taken

    def close(self) -> None:
        """Let nobody in any more; what waits may still be taken."""
        with self._lock:
            self._closed = True


class Submitting:
    """Futures over listeners, for whatever takes commands by ``submit_to``: one engine, or several behind a router."""

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands, kept in order; each listener hears its outcome once. Raises Busy or EngineStopped."""
        raise NotImplementedError

    def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
        """Queue commands, kept in order. Raises as submit_to; a future raises StoreUnavailable or HandlerFailed."""
        futures: list[Future[Answer]] = []
        pairs: list[tuple[CommandEnvelope, Listener]] = []
        for envelope in envelopes:
            future: Future[Answer] = Future()
            futures.append(future)
            pairs.append((envelope, _resolver(future)))
        self.submit_to(pairs)
        return futures

    def submit(self, envelope: CommandEnvelope) -> Future[Answer]:
        """Queue one command."""
        return self.submit_many((envelope,))[0]

    def execute(self, envelope: CommandEnvelope, timeout_seconds: float = 30.0) -> Answer:
        """Queue one command and wait for its answer."""
        return self.submit(envelope).result(timeout_seconds)


def _resolver(future: "Future[Answer]") -> Listener:
    """A listener that resolves a future."""

    def resolve(outcome: Outcome) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return resolve
