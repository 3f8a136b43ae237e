"""Random histories of commands, through the real engine and handlers, agree with a naive reference model."""

from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from command.ports import EventLog
from infra.postgres.log import PostgresEventLog
from tests.fakes import InMemoryEventLog
from tests.property.histories import Histories


def test_histories_on_a_log_in_memory_agree_with_the_reference_model() -> None:
    class InMemory(Histories):
        make_log = InMemoryEventLog

    run_state_machine_as_test(InMemory, settings=settings(stateful_step_count=40))


@pytest.mark.integration
def test_histories_on_postgresql_agree_with_the_reference_model(corners: Any) -> None:
    class OnPostgres(Histories):
        @staticmethod
        def make_log() -> EventLog:
            return PostgresEventLog(contexts.enter_context(corners.postgres()))

        @staticmethod
        def close_log(log: Any) -> None:
            log.close()

        @staticmethod
        def beside(log: Any) -> EventLog:
            return PostgresEventLog(log._dsn)

    with ExitStack() as contexts:
        run_state_machine_as_test(OnPostgres, settings=settings(max_examples=5, stateful_step_count=30, deadline=None))
