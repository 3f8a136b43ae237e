"""``python -m infra.embedded``: bring ahead of time what the engines would fetch or make at their first start."""

import sys

from infra.embedded.engine import EngineFailed
from infra.embedded.kafka import rehearsed
from infra.embedded.kafka_jars import jars


def main() -> int:
    """Bring the jars of Kafka's broker, and rehearse its start; returns the exit code."""
    try:
        rehearsed(jars())
    except EngineFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
