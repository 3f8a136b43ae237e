"""What every test shares: how many examples Hypothesis tries, and real engines for whoever asks."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from infra.embedded import EmbeddedStack, Endpoints
from tests.engines import Corners

# `make test-long` sets TESSERA_TEST_EFFORT=long.
# No deadline and no complaint about slowness: a busy machine makes an example slow, not wrong.
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("quick", COMMON, max_examples=50)
settings.register_profile("long", COMMON, max_examples=2_000)
settings.load_profile(os.environ.get("TESSERA_TEST_EFFORT", "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses an engine is an integration test, said or not."""
    for item in items:
        if isinstance(item, pytest.Function) and "endpoints" in item.fixturenames:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def endpoints() -> Iterator[Endpoints]:
    """The addresses of PostgreSQL, Redis and ClickHouse, started when the first test asks."""
    with EmbeddedStack(tempfile.mkdtemp(prefix="tessera-test-"), ephemeral=True) as stack:
        yield stack.endpoints


@pytest.fixture(scope="session")
def corners(endpoints: Endpoints) -> Corners:
    """Makes as many fresh databases as a test likes."""
    return Corners(endpoints)


@pytest.fixture
def postgres_dsn(corners: Corners) -> Iterator[str]:
    """A fresh database with everything that `prepare_template` put there."""
    with corners.postgres() as dsn:
        yield dsn


@pytest.fixture
def empty_postgres_dsn(corners: Corners) -> Iterator[str]:
    """A fresh database with nothing in it, for tests of migrations."""
    with corners.postgres(empty=True) as dsn:
        yield dsn


@pytest.fixture
def redis_url(corners: Corners) -> Iterator[str]:
    """An empty Redis database."""
    with corners.redis() as url:
        yield url


@pytest.fixture
def clickhouse_url(corners: Corners) -> Iterator[str]:
    """A fresh, empty ClickHouse database."""
    with corners.clickhouse() as url:
        yield url
