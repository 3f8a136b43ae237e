"""A runner as a process of its own, to be killed: python -m tests.integration.distributions.one_runner DSN"""

import sys

from command.engine import Engine
from command.handlers import HANDLERS
from infra.distributions.runner import DistributionRunner, RunnerSettings
from infra.postgres.log import PostgresEventLog


def main(dsn: str) -> None:
    """Run until every distribution is done."""
    log = PostgresEventLog(dsn)
    engine = Engine(log, HANDLERS)
    engine.start()
    runner = DistributionRunner(dsn, log, engine, RunnerSettings(chunks_per_turn=4))
    while runner.run_once():
        pass


if __name__ == "__main__":
    main(sys.argv[1])
