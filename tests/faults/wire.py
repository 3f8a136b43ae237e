"""A wire to PostgreSQL that fails on demand: cut around a commit, or gone silent in the middle of a word."""

import socket
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES: Final = 65_536
_WAIT_SECONDS: Final = 30.0
# What a server says when it is ready for the next query, with no transaction open or with one.
_IDLE: Final = b"Z\0\0\0\x05I"
_IN_TRANSACTION: Final = b"Z\0\0\0\x05T"
# What a client says last, and what the server waits for before it takes the client for idle.
_SYNC: Final = b"S\0\0\0\x04"

Fault = Literal["cut before", "cut after", "silent"]


@dataclass(eq=False)
class _Line:
    """One connection: the engine's end and the server's."""

    client: socket.socket
    server: socket.socket
    in_transaction: bool = False
    is_ending: bool = False  # It falls silent before the next last word.
    is_due: bool = False  # The marked thing passed: the line is cut once its transaction is committed.
    silent: threading.Event = field(default_factory=threading.Event)  # Neither end hears the other, nor its hanging up.

    def cut(self) -> None:
        """Both ends notice at once."""
        for end in (self.server, self.client):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # Gone already.


class Wire:
    """Passes one DSN's traffic on, byte by byte, until it is told to fail.

    ``mark``: what an engine says when it stores something, and at no other time (the name of an event). A fault happens
    once, and sets :attr:`happened`; lines that are opened later are good, unless the wire is unplugged.
    """

    def __init__(self, dsn: str, mark: str) -> None:
        url = urlsplit(dsn)
        assert url.hostname is not None
        assert url.port is not None
        self._server = (url.hostname, url.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = urlunsplit(url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{port}"))
        self.happened = threading.Event()
        self._mark = mark.encode()
        self._fault: Fault | None = None
        self._unplugs = self._unplugged = False
        self._lines: list[_Line] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for line in self._lines:
            line.cut()
            line.client.close()
            line.server.close()

    def cut_before_next_commit(self, *, and_unplug: bool = False) -> None:
        """What is to be stored next does not arrive; the line is cut. ``and_unplug``: new ones fail, until plugged."""
        self._arm("cut before", and_unplug)

    def cut_after_next_commit(self, *, and_unplug: bool = False) -> None:
        """What is to be stored next is committed; the line is cut before anybody hears of it."""
        self._arm("cut after", and_unplug)

    def fall_silent_in_next_append(self) -> None:
        """Of what is next to be stored in an open transaction all but the last word arrives, and nothing ever after.

        Nobody is told: this is a half-open connection, or a machine that lost its power.
        """
        self._arm("silent", unplugs=False)

    def plug(self) -> None:
        """New lines are good again."""
        self._unplugged = False

    def _arm(self, fault: Fault, unplugs: bool) -> None:
        self.happened.clear()
        self._unplugs = unplugs
        self._fault = fault

    def _strikes(self, fault: Fault) -> bool:
        """Whether this fault is due; if so, it is done with."""
        if self._fault != fault:
            return False
        self._fault = None
        return True

    def _cut(self, line: _Line) -> None:
        self._unplugged = self._unplugs
        self.happened.set()  # First: whoever notices the cut may ask at once.
        line.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # Closed.
            if self._unplugged:
                client.close()
                continue
            line = _Line(client, socket.create_connection(self._server, timeout=_WAIT_SECONDS))
            line.server.settimeout(None)
            self._lines.append(line)
            threading.Thread(target=self._pass_questions, args=(line,), daemon=True).start()
            threading.Thread(target=self._pass_answers, args=(line,), daemon=True).start()

    def _pass_questions(self, line: _Line) -> None:
        said = b""
        try:
            while data := line.client.recv(_CHUNK_BYTES):
                said = said[1 - len(self._mark) :] + data
                if (line.is_ending or self._mark in said) and not self._lets_pass(line, data):
                    return
                line.server.sendall(data)
            line.server.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The other end is gone; so are we.

    def _lets_pass(self, line: _Line, data: bytes) -> bool:
        """The moment has come, for whatever is to happen."""
        if self._strikes("cut before"):
            self._cut(line)
            return False
        line.is_ending = line.is_ending or (line.in_transaction and self._strikes("silent"))
        if line.is_ending and data.endswith(_SYNC):
            line.server.sendall(data.removesuffix(_SYNC))
            line.silent.set()
            self.happened.set()
            return False
        line.is_due = line.is_due or self._strikes("cut after")
        return True

    def _pass_answers(self, line: _Line) -> None:
        heard = b""
        try:
            while data := line.server.recv(_CHUNK_BYTES):
                if line.silent.is_set():
                    return
                heard = heard[1 - len(_IDLE) :] + data
                if _IDLE in heard or _IN_TRANSACTION in heard:
                    line.in_transaction = heard.rfind(_IN_TRANSACTION) > heard.rfind(_IDLE)
                    if line.is_due and not line.in_transaction:
                        self._cut(line)
                        return
                line.client.sendall(data)
            if not line.silent.is_set():
                line.client.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The other end is gone; so are we.
