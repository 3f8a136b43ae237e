"""How every connection to ClickHouse is made: over HTTP, with a limit on every wait, errors in one word."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

CONNECT_TIMEOUT_SECONDS = 5
ANSWER_TIMEOUT_SECONDS = 60

# Error codes of a server that is there but cannot now: too many queries, memory, parts; time-outs; shutting down.
_LATER = ("Code: 159.", "Code: 202.", "Code: 241.", "Code: 252.", "Code: 209.", "Code: 210.", "Code: 236.")

# Unknown table, unknown database, no such column, unknown identifier.
_DAMAGE: Final = re.compile(r"[Cc]ode: (60|81|16|47)\b")


class ClickHouseUnavailable(Exception):
    """ClickHouse cannot be reached, or not now. Nothing is known of what was asked; asking again is safe."""


class FactsDamaged(Exception):
    """A table or view of the facts is not there or not as we made it: rebuild them."""


def connect(url: str) -> Client:
    """A client for the database that the URL names. Raises ClickHouseUnavailable.

    Sessions are off: a session serves one request at a time, and a client is shared by threads.
    """
    with translated():
        return clickhouse_connect.get_client(
            dsn=url,
            autogenerate_session_id=False,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            send_receive_timeout=ANSWER_TIMEOUT_SECONDS,
        )


def database_of(url: str) -> str:
    """The database that a URL names; ``default`` when it names none."""
    return unquote(urlsplit(url).path.strip("/")) or "default"


def at_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return "`" + name.replace("`", "``") + "`"


@contextmanager
def translated() -> Iterator[None]:
    """Turn what ClickHouse says into what to do about it; mistakes of ours stay what they are.

    Raises ClickHouseUnavailable for "out of reach, or too late", FactsDamaged for a table or column that is not there.
    """
    try:
        yield
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise ClickHouseUnavailable(str(error)) from error
    except ClickHouseError as error:
        text = str(error)
        if any(code in text for code in _LATER) or (isinstance(error, OperationalError) and "Code:" not in text):
            raise ClickHouseUnavailable(text) from error
        if _DAMAGE.search(text):
            raise FactsDamaged(
                "the fact tables are not as this version made them (run `tessera migrate`, then "
                f"`tessera projections rebuild facts`): {text.splitlines()[0]}"
            ) from error
        raise
