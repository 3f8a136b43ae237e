"""Two migrated databases with an engine each, for all tests of a module; every world in them is a realm of its own."""

from collections.abc import Iterator

import pytest

from tests.engines import Corners
from tests.integration.shards.world import GiantWorld, TwoStores


@pytest.fixture(scope="module")
def stores(corners: Corners) -> Iterator[TwoStores]:
    """Both stores."""
    with corners.postgres() as zero, corners.postgres() as one:
        stores = TwoStores(zero, one)
        yield stores
        stores.close()


@pytest.fixture
def giant(stores: TwoStores) -> Iterator[GiantWorld]:
    """A fresh realm of the giant at noon, with a coupon on each shard."""
    world = GiantWorld(stores)
    yield world.cast()
    world.close()
