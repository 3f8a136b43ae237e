"""``tessera serve`` under the sampler; settings come from the environment, shares go to the file that is named."""

import json
import sys
from pathlib import Path

from benchmarks.sampler import Sampler
from infra.bootstrap import serve
from infra.settings import Settings


def main() -> None:
    """Serve until SIGTERM, then write. Start-up is not of interest: sampling begins once a file ``….go`` is there."""
    go = Path(f"{sys.argv[1]}.go")
    sampler = Sampler(go.exists)
    sampler.start()
    try:
        serve(Settings.load())
    finally:
        sampler.stop()
        Path(sys.argv[1]).write_text(json.dumps(sampler.result()))


if __name__ == "__main__":
    main()
