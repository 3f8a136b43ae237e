"""Two numbers for one database would be one shard that takes itself for two: found at start, before harm is done."""

from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from command.ports import StoreUnavailable
from infra.postgres.connections import connect, translated
from infra.postgres.epoch import identity
from infra.settings import SettingsError, variable


def require_distinct_stores(stores: Mapping[int, str]) -> None:
    """No two shards are the same database, however it is addressed. One that is away now is not compared.

    Errors: SettingsError.
    """
    shards: dict[tuple[Any, ...], int] = {}
    for shard, dsn in stores.items() if len(stores) > 1 else ():
        with suppress(StoreUnavailable):
            with translated(), closing(connect(dsn, name="distinct", autocommit=True)) as connection:
                found = identity(connection)
            if found in shards:
                raise SettingsError(
                    f"{variable('shard_dsns')} is wrong: shards {shards[found]} and {shard} are one and the same "
                    "database; give each shard the address of its own"
                )
            shards[found] = shard
