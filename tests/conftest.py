"""What every test shares: how many examples Hypothesis tries, and real engines for whoever asks."""

import faulthandler
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Final

import pytest
import structlog
from _pytest.faulthandler import fault_handler_stderr_fd_key
from _pytest.logging import LogCaptureHandler
from hypothesis import HealthCheck, settings

from infra.embedded import EmbeddedStack, Endpoints
from tests.engines import Corners, fresh_prefix, running_kafka

# `make test-long` sets TESSERA_TEST_EFFORT=long.
# No deadline and no complaint about slowness: a busy machine makes an example slow, not wrong.
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("quick", COMMON, max_examples=50)
settings.register_profile("long", COMMON, max_examples=2_000)
settings.load_profile(os.environ.get("TESSERA_TEST_EFFORT", "quick"))


# The time-out of a test ends the test, but not what then hangs while its fixtures are put away. That ends the process,
# with the stack of every thread; another worker of pytest goes on, and the summary says which test it was.
STUCK_SECONDS_MORE: Final = 120


def _end_what_is_stuck(item: pytest.Item) -> None:
    config, own = item.config, item.get_closest_marker("timeout")
    told = (own.args[0] if own else None, config.getoption("timeout"), config.getini("timeout"))
    seconds = max(float(each) for each in told if each is not None)
    if seconds > 0:
        stderr = config.stash[fault_handler_stderr_fd_key]
        faulthandler.dump_traceback_later(seconds + STUCK_SECONDS_MORE, exit=True, file=stderr)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The watch begins anew with each test."""
    _end_what_is_stuck(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """… and goes on after a failure, which took it away (for whoever debugs)."""
    _end_what_is_stuck(item)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Everything is put away."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """A test that sets up logs, as a process does, leaves nobody its level, nor a handler whose stream is closed."""
    root = logging.getLogger()
    before, level = set(root.handlers), root.level
    yield
    structlog.reset_defaults()
    for handler in set(root.handlers) - before:
        if not isinstance(handler, LogCaptureHandler):
            root.removeHandler(handler)
    root.setLevel(level)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses an engine is an integration test, said or not."""
    for item in items:
        if isinstance(item, pytest.Function) and {"endpoints", "kafka_bootstrap"} & set(item.fixturenames):
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


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """The address of a Kafka broker of this process, started when the first test asks; all its tests share it."""
    with running_kafka() as kafka:
        yield kafka.address


@pytest.fixture
def kafka_prefix() -> str:
    """What a test puts before the names of its topics and groups, so that they are its own."""
    return fresh_prefix()
