"""ClickHouse without a server to install: our HTTP front over `chdb`, as a child process on a port of the loopback."""

import importlib.util
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

from infra.embedded.engine import Engine, EngineFailed
from infra.processes import LOOPBACK

DATABASE = "tessera"
ANSWER_TIMEOUT_SECONDS = 2.0
PROCESS_HEADER = "X-Tessera-Process"  # In the answer to a ping: whose port it is.


class EmbeddedClickHouse(Engine):
    """The child (`infra.embedded.clickhouse_server`) owns the folder; everybody reaches it by ClickHouse's HTTP."""

    name: ClassVar[str] = "clickhouse"

    @property
    def address(self) -> str:
        return f"http://default:@{LOOPBACK}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Errors: EngineFailed when `chdb` is not installed."""
        if importlib.util.find_spec("chdb") is None:
            raise EngineFailed("no embedded ClickHouse: install the package chdb, or set TESSERA_CLICKHOUSE_URL")

    def argv(self) -> tuple[str, ...]:
        module = "infra.embedded.clickhouse_server"
        return (sys.executable, "-m", module, str(self.folder), "--port", str(self.port), "--database", DATABASE)

    def cwd(self) -> Path:
        """Where `-m` finds our packages, installed or not."""
        return Path(__file__).resolve().parents[2]

    def answers(self) -> bool:
        """True once the database takes queries: it listens only after it has opened its folder."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/ping", timeout=ANSWER_TIMEOUT_SECONDS) as reply:
                return self.child is not None and reply.headers.get(PROCESS_HEADER) == str(self.child.pid)
        except (urllib.error.URLError, OSError):
            return False
