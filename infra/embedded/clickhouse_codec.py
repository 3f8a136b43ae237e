"""HTTP content encodings as ClickHouse and its clients use them: a body may be several frames, one after the other."""

import zlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import lz4.frame
import zstandard


class BodyError(ValueError):
    """A request's body cannot be read; the message says why."""


class UnknownEncoding(BodyError):
    """A content encoding nobody here speaks; the message names it and those we do."""


class BrokenBody(BodyError):
    """The body is not what its content encoding says, or ends in the middle of a frame."""


class Decoder:
    """Undoes one content encoding, piece by piece, through all the frames of the body.

    Clients compress each block of rows by itself: stopping after the first frame loses every row past 65,536.
    """

    def __init__(self, encoding: str) -> None:
        self._new_frame = _choose(_DECODERS, encoding)
        self._frame: Any = None

    def feed(self, data: bytes) -> bytes:
        """Errors: BrokenBody."""
        if self._new_frame is None:
            return data
        plain = bytearray()
        while data:
            if self._frame is None:
                self._frame = self._new_frame()
            try:
                plain += self._frame.decompress(data)
            except (RuntimeError, zlib.error, zstandard.ZstdError) as error:
                raise BrokenBody(f"the body cannot be decompressed: {error}") from error
            data = b""
            if self._frame.eof:
                data, self._frame = self._frame.unused_data or b"", None
        return bytes(plain)

    def finish(self) -> None:
        """Errors: BrokenBody."""
        if self._frame is not None:
            raise BrokenBody("the compressed body ends in the middle of a frame")


class Encoder(Protocol):
    """Compresses a body piece by piece."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Lz4:
    """One LZ4 frame; its header goes out with the first piece."""

    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._header = bytes(self._frame.begin())

    def compress(self, data: bytes, /) -> bytes:
        header, self._header = self._header, b""
        return header + bytes(self._frame.compress(data))

    def flush(self) -> bytes:
        return self.compress(b"") + bytes(self._frame.flush())


def encoder(encoding: str) -> Encoder:
    """An encoder for one response; `identity` compresses nothing."""
    make = _choose(_ENCODERS, encoding)
    return _Plain() if make is None else make()


def accepted(accept_encoding: str) -> str:
    """The encoding to answer in: the fastest that the client accepts, else `identity`."""
    offered = {part.partition(";")[0].strip().lower() for part in accept_encoding.split(",")}
    return next((name for name in _ENCODERS if name in offered), "identity")


def _choose(makers: dict[str, Callable[[], Any]], encoding: str) -> Callable[[], Any] | None:
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name not in makers:
        raise UnknownEncoding(f"unknown content encoding {encoding!r}; these work: {_names(makers)}")
    return makers[name]


def _names(makers: Iterable[str]) -> str:
    return ", ".join(sorted(makers))


_DECODERS: dict[str, Callable[[], Any]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "deflate": zlib.decompressobj,
}
_ENCODERS: dict[str, Callable[[], Encoder]] = {  # Fastest first.
    "lz4": _Lz4,
    "zstd": lambda: zstandard.ZstdCompressor(level=1).compressobj(),
    "gzip": lambda: zlib.compressobj(level=1, wbits=31),
    "deflate": lambda: zlib.compressobj(level=1),
}
