"""Where a command finds its servers."""

import subprocess
import sys

_PROGRAM = """
import os, sys
from pathlib import Path

from infra.cli.command import Session
from infra.cli.console import Output

os.environ["TESSERA_POSTGRES_DSN"] = "postgresql://u:p@127.0.0.1:5432/d"
os.environ["TESSERA_REDIS_URL"] = "redis://127.0.0.1:6379/0"
os.environ["TESSERA_CLICKHOUSE_URL"] = "http://u:p@127.0.0.1:8123/d"
print(Session(Output(as_json=False), Path("none")).settings.http_port)
sys.exit("infra.embedded" in sys.modules)
"""


def test_a_server_process_whose_addresses_are_set_does_not_load_the_embedded_engines() -> None:
    """They cost a fifth of its start, and a process that was killed serves again so much later."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "8080\n"), done.stderr
