"""Our own processes by fork of one that has imported everything: on few processors, many more of them can be killed.

A process that starts cold spends one to two seconds of a processor on imports, which is most of what a cycle costs. One
that is forked here differs in nothing else: its own session, environment, log, connections, and death. How long
somebody waits after a kill is told by runs that start cold.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from infra.processes import ChildSpec, Ending, wait_until
from tests.chaos.obedient import STOP_SECONDS_MAX, Obedient
from tests.chaos.services import is_running

LOG_TAIL_BYTES: Final = 4_000
_PR_SET_PDEATHSIG: Final = 1

# What the parts import once they know what they are.
_MODULES: Final = (
    "aiokafka",
    "clickhouse_connect",
    "fastapi",
    "redis.asyncio",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "infra.cli.app",
    "infra.bootstrap.serving",
    "infra.bootstrap.workers",
    "infra.distributions.runner",
    "infra.http.app",
    "infra.intake.service",
    "infra.kafka.consumer",
    "infra.postgres.housekeeping",
    "infra.projections.service",
    "infra.relay.publisher",
    "infra.relay.relay",
    "infra.sagas.lane_runner",
    "infra.sagas.worker",
    "infra.shards.distinct",
    "infra.telemetry.traced",
    "infra.workers",
    "query.readers.placed",
    "query.readers.reports",
)


class Nursery(Obedient):
    """From outside: hands out processes. They end when it does. Safe for several threads."""

    module = "tests.chaos.nursery"

    def spawn(self, spec: ChildSpec) -> "Forked":
        """One more. ``spec.argv`` ends with the call behind ``-m infra.cli``."""
        assert spec.log_path is not None
        call = list(spec.argv[spec.argv.index("infra.cli") + 1 :])
        order = {"do": "spawn", "call": call, "env": dict(spec.env or {}), "log": str(spec.log_path)}
        return Forked(spec.name, int(self._order(order)), spec.log_path, self)

    def exit_code(self, pid: int) -> int:
        """Of one that has ended."""
        return int(self._order({"do": "reap", "pid": pid}))


@dataclass
class Forked:
    """One process of a nursery, as :class:`infra.processes.Child` is."""

    name: str
    pid: int
    log_path: Path
    nursery: Nursery
    exit_code: int | None = None

    def ending(self) -> Ending | None:
        """None while it runs."""
        if self.exit_code is None:
            if is_running(self.pid):
                return None
            self.exit_code = self.nursery.exit_code(self.pid)
        tail = self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return Ending(self.name, self.exit_code, tail)

    def stop(self) -> int:
        """Ask it to end, then end it."""
        for which in (signal.SIGTERM, signal.SIGKILL):
            if self.ending() is None:
                os.kill(self.pid, which)
                wait_until(lambda: not is_running(self.pid), timeout_seconds=STOP_SECONDS_MAX)
        return self.exit_code or 0


def _obey() -> None:
    """One order per line, one number as its answer."""
    for name in _MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # A collection in a child would copy every page that we share.
    die_with_us = _death_signal()
    while line := sys.stdin.readline():  # Its end is ours, and our children's.
        order = json.loads(line)
        if order["do"] == "spawn":
            sys.stderr.flush()
            answer = os.fork()
            if answer == 0:
                _become(die_with_us, order)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["pid"], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _death_signal() -> Callable[[], object]:
    """What a child calls to be ended with us. Elsewhere than on Linux only its stack ends it."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _become(die_with_us: Callable[[], object], order: dict[str, Any]) -> NoReturn:
    """In the child: what an exec would have made of it."""
    code = 1
    try:
        die_with_us()
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.update(order["env"])
        sys.argv = ["tessera", *order["call"]]
        import_module("infra.cli").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - nobody is above us.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business.
    _obey()
