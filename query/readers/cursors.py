"""Opaque cursors: where a page ended, bound to the list that made them."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error

from query.ports import BadCursor

Key = tuple[str | int, ...]


def encode_cursor(listing: str, key: Key) -> str:
    """The token that continues ``listing`` after ``key``."""
    return urlsafe_b64encode(json.dumps([listing, *key]).encode()).decode().rstrip("=")


def decode_cursor(listing: str, token: str, shape: tuple[type, ...]) -> Key:
    """The key inside a token of this list. Raises BadCursor for anything that this list did not make."""
    try:
        told = json.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (Base64Error, ValueError) as error:
        raise BadCursor(token) from error
    if not isinstance(told, list) or told[:1] != [listing] or tuple(map(type, told[1:])) != shape:
        raise BadCursor(token)
    return tuple(told[1:])
