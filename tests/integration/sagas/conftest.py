"""One migrated database with an engine for all saga tests of a module; every world in it is a realm of its own."""

from collections.abc import Iterator

import pytest

from tests.engines import Corners
from tests.integration.sagas.world import Store, World


@pytest.fixture(scope="module")
def store(corners: Corners) -> Iterator[Store]:
    """A store that lasts for the module."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


@pytest.fixture
def world(store: Store) -> Iterator[World]:
    """A fresh realm at noon."""
    world = World(store)
    yield world
    world.close()
