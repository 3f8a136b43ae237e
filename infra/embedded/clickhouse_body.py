"""A request's body on its way in: statements stay in memory, the rows of an INSERT go to a file as they come."""

from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import BinaryIO

from infra.embedded.clickhouse_codec import BodyError, Decoder
from infra.embedded.clickhouse_statement import Statement, read_statement

HEAD_BYTES_MAX = 256 * 1024  # ClickHouse's own limit for a statement without its rows (max_query_size).
TEXT_BYTES_MAX = 64 * 1024 * 1024  # INSERT … VALUES, which the engine reads from memory.
ROWS_BYTES_MAX = 8 * 1024 * 1024 * 1024


class BodyTooLarge(BodyError):
    """The message says which limit."""


class Body:
    """Takes a body piece by piece, undoing its content encoding.

    The rows are complete in the file before the engine sees them: a client that dies half-way inserts nothing.
    Methods that take data may block on the disk. Errors: BodyError.
    """

    def __init__(self, query: str, encoding: str, rows_path: Path) -> None:
        self.rows_path = rows_path
        self._decoder = Decoder(encoding)
        self._text = bytearray(query.encode() + b"\n" if query else b"")
        self._statement: Statement | None = None
        self._rows: BinaryIO | None = None
        self._size_bytes = 0

    def feed(self, data: bytes) -> None:
        plain = self._decoder.feed(data)
        self._size_bytes += len(plain)
        if self._rows is not None:
            self._rows.write(plain)
        else:
            self._text += plain
            if self._statement is None and len(self._text) > HEAD_BYTES_MAX:
                self._look()
        limit = TEXT_BYTES_MAX if self._rows is None else ROWS_BYTES_MAX
        if self._size_bytes > limit:
            raise BodyTooLarge(f"the body is larger than {limit} bytes")

    def finish(self) -> Statement:
        """The statement, once all data has come; the rows of an INSERT … FORMAT are in `rows_path`."""
        self._decoder.finish()
        if self._rows is None:
            self._look()
        if self._rows is not None:
            self._rows.close()
        assert self._statement is not None
        return self._statement

    @property
    def text(self) -> bytes:
        """The statement's own text."""
        return bytes(self._text)

    def discard(self) -> None:
        """Delete the file, if there is one."""
        if self._rows is not None:
            self._rows.close()
            self.rows_path.unlink(missing_ok=True)

    def _look(self) -> None:
        self._statement = read_statement(bytes(self._text))
        if self._statement.insert is not None:
            offset = self._statement.insert.offset_bytes
            self._rows = self.rows_path.open("wb")
            self._rows.write(self._text[offset:])
            del self._text[offset:]


def form_fields(content_type: str, data: bytes) -> tuple[dict[str, str], list[str]]:
    """A multipart form as (values by name, names of attached files); clients send long parameters this way."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + data)
    values: dict[str, str] = {}
    files: list[str] = []
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        if part.get_filename() is not None:
            files.append(name)
        elif isinstance(content, bytes):
            values[name] = content.decode()
    return values, files
