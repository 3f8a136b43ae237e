"""The shards of a local stack: databases of its one PostgreSQL, and how many of them a data folder was made for."""

import json
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from psycopg import sql

from contracts.placement import SLOTS
from infra.postgres.connections import connect
from infra.settings import Settings

_FILE: Final = "shards.json"


class OtherShards(RuntimeError):
    """A data folder was made for another number of shards, and what lies on them cannot be moved."""

    def __init__(self, known: int, wished: int) -> None:
        super().__init__(f"the data folder was made for {_told(known)}; slots cannot be moved to {_told(wished)}")


def shards_of(data_dir: Path, wished: int | None, *, is_new: bool) -> int:
    """How many shards a folder has: a new one as many as are wished, any other one what :func:`remember` noted.

    Raises OtherShards when something else is wished.
    """
    known = (wished or 1) if is_new else _read(data_dir)
    if wished is not None and wished != known:
        raise OtherShards(known, wished)
    return known


def remember(data_dir: Path, shards: int) -> None:
    """Note how many shards a folder has."""
    (data_dir / _FILE).write_text(f"{shards}\n")


def make_databases(dsn: str, shards: int) -> dict[int, str]:
    """The DSNs of the shards beside the first one, whose DSN is given. Databases that are not there are made."""
    first = urlsplit(dsn).path.strip("/")
    names = {shard: f"{first}_{shard}" for shard in range(1, shards)}
    if names:
        with connect(dsn, name="up", autocommit=True) as connection:
            known = {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}
            for name in names.values():
                if name not in known:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return {shard: urlunsplit(urlsplit(dsn)._replace(path=f"/{name}")) for shard, name in names.items()}


def placed(settings: Settings, tenant: str) -> Settings:
    """The settings with a tenant spread evenly over all shards, unless they place tenants themselves."""
    if settings.is_placed or len(settings.stores) == 1:
        return settings
    return settings.model_copy(update={"spread_tenants": {tenant: even_slots(len(settings.stores))}})


def even_slots(shards: int) -> dict[int, str]:
    """The slots of each shard, as settings write them: ``{0: "0-511", 1: "512-1023"}``."""
    ends = [SLOTS * shard // shards for shard in range(shards + 1)]
    return {shard: f"{ends[shard]}-{ends[shard + 1] - 1}" for shard in range(shards)}


def _read(data_dir: Path) -> int:
    """Folders of before there were shards have one."""
    try:
        return int(json.loads((data_dir / _FILE).read_text()))
    except FileNotFoundError:
        return 1


def _told(shards: int) -> str:
    return "one shard" if shards == 1 else f"{shards} shards"
