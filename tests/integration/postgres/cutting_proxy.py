"""A wire to PostgreSQL that can be cut at the worst moment: COMMIT has arrived, its answer has not."""

import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 65_536
_WAIT_SECONDS = 30.0


class CuttingProxy:
    """Passes one DSN's traffic on, byte by byte, until it is told to swallow answers."""

    def __init__(self, dsn: str) -> None:
        url = urlsplit(dsn)
        assert url.hostname is not None
        assert url.port is not None
        self._server = (url.hostname, url.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = urlunsplit(url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{port}"))
        self._cut = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()

    def cut_at_next_answer(self) -> None:
        """The next thing the server says is lost, together with the connection that waits for it."""
        self._cut.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # Closed.
            server = socket.create_connection(self._server, timeout=_WAIT_SECONDS)
            self._open += [client, server]
            threading.Thread(target=self._pass_questions, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pass_answers, args=(server, client), daemon=True).start()

    def _pass_questions(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(_CHUNK_BYTES):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The other end is gone; so are we.

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(_CHUNK_BYTES):
                if self._cut.is_set():
                    self._cut.clear()
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The other end is gone; so are we.
