"""Two migrated databases with an engine each, for all tests of leases; every pair of shards in them is a realm."""

from collections.abc import Iterator

import pytest

from tests.engines import Corners
from tests.integration.leases.shards import Shards
from tests.integration.sagas.world import Store


@pytest.fixture(scope="module")
def stores(corners: Corners) -> Iterator[tuple[Store, Store]]:
    """Home and holder."""
    with corners.postgres() as home_dsn, corners.postgres() as holder_dsn:
        home, holder = Store(home_dsn), Store(holder_dsn)
        yield home, holder
        home.close()
        holder.close()


@pytest.fixture
def shards(stores: tuple[Store, Store]) -> Shards:
    """A fresh realm on both."""
    return Shards(*stores)
