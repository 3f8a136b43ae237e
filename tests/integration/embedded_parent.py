"""A parent for tests to kill: runs the stack on a folder, tells on stdout what it started, and waits."""

import json
import signal
import sys
import time
from dataclasses import asdict

from infra.embedded import EmbeddedStack

STAYS_SECONDS = 120


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Whoever runs the tests in the background ignores it.
    with EmbeddedStack(sys.argv[1]) as stack:
        told = {
            "endpoints": asdict(stack.endpoints),
            "pids": [engine.child.pid for engine in stack.engines if engine.child is not None],
        }
        print(json.dumps(told), flush=True)
        time.sleep(STAYS_SECONDS)


if __name__ == "__main__":
    main()
