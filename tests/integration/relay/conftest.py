"""A store, and topics with a prefix of their own on the broker that all tests share."""

import pytest

from tests.integration.relay.world import World, settings_for


@pytest.fixture
def world(postgres_dsn: str, kafka_bootstrap: str, kafka_prefix: str) -> World:
    """A store without events, and empty topics."""
    return World(settings_for(postgres_dsn, kafka_bootstrap, kafka_prefix))
