"""A position in the log: shard, epoch and offset to us, an opaque token to everybody outside."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import NamedTuple, Self


class Position(NamedTuple):
    """Where in which history. The epoch changes when a store was restored: offsets of two epochs never compare."""

    shard: int
    epoch: str
    offset: int

    def token(self) -> str:
        """The opaque form that answers carry and ``min_position`` accepts."""
        return urlsafe_b64encode(f"{self.shard}.{self.epoch}.{self.offset}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, token: str) -> Self:
        """The inverse of :meth:`token`. Raises ValueError for anything that we did not make."""
        try:
            text = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
            shard, epoch, offset = text.split(".")
            position = cls(int(shard), epoch, int(offset))
        except (Base64Error, UnicodeError, ValueError) as error:
            raise ValueError(f"{token!r} is not a position token") from error
        if position.token() != token or position.offset < 0:
            raise ValueError(f"{token!r} is not a position token")
        return position
