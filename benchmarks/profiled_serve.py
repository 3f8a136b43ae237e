"""``tessera serve`` under the sampler, for as long as a file says so; settings come from the environment."""

import json
import sys
import threading
from pathlib import Path
from time import sleep
from typing import Final

from benchmarks.sampler import Sampler
from infra.bootstrap.serving import serve
from infra.settings import Settings

POLL_SECONDS: Final = 0.1


def switch(shares: Path) -> Path:
    """The file that whoever measures makes to begin, and removes to have the shares written."""
    return shares.with_suffix(".on")


def main() -> None:
    """Serve until SIGTERM; a thread beside waits for the switch."""
    threading.Thread(target=_sample, args=(Path(sys.argv[1]),), name="switch", daemon=True).start()
    serve(Settings.load())


def _sample(shares: Path) -> None:
    on, sampler = switch(shares), Sampler()
    while not on.exists():
        sleep(POLL_SECONDS)
    sampler.start()
    while on.exists():
        sleep(POLL_SECONDS)
    sampler.stop()
    unfinished = shares.with_suffix(".part")
    unfinished.write_text(json.dumps(sampler.result()))
    unfinished.rename(shares)


if __name__ == "__main__":
    main()
