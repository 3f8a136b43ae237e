"""A relay as a process of its own, to be killed and stopped: its argument is JSON.

``{"settings": {…}, "lead_seconds", "batch", "signal": 9, "at": "acknowledged", "nth": 3}``: what is sent to itself when
it passes that point for the n-th time, if anything. ``looks_seconds``: how often it looks, while it publishes, whether
its session lives. Its state goes to standard output, a line for each change.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from time import sleep
from typing import Any

from infra.postgres.feed import StoreFeed
from infra.relay.checkpoint import Checkpoint
from infra.relay.publisher import KafkaPublisher, PublisherLimits
from infra.relay.relay import At, Relay, RelayLimits
from infra.settings import Settings

_PR_SET_PDEATHSIG = 1
SIGNAL_SECONDS = 1.0  # The process's first thread hears of a signal; until it stops the others, they would go on.


def main(options: dict[str, Any]) -> None:
    """Relay until SIGTERM."""
    if sys.platform.startswith("linux"):  # Even a stopped one must not stay behind when the test is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    passed = 0

    def passing(at: At) -> None:
        nonlocal passed
        passed += at == options.get("at")
        if at == options.get("at") and passed == options["nth"]:
            os.kill(os.getpid(), options["signal"])
            sleep(SIGNAL_SECONDS)

    settings = Settings(**options["settings"])
    lead_seconds = options["lead_seconds"]
    limits = RelayLimits(
        batch_events_max=options["batch"],
        lead_seconds=lead_seconds,
        beat_seconds=lead_seconds / 10,
        standby_seconds=0.05,
    )
    relay = Relay(
        StoreFeed(settings.postgres_dsn),
        Checkpoint(settings.postgres_dsn, 0, lead_seconds=lead_seconds),
        KafkaPublisher(settings, PublisherLimits(beat_seconds=options.get("looks_seconds", 0.2))),
        shard=0,
        limits=limits,
        passing=passing,
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    told = ""
    while thread.is_alive():
        if (state := relay.status().state) != told:
            told = state
            print(state, flush=True)
        sleep(0.005)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
