"""An engine in a process of its own: commands come on its standard input, answers leave on its standard output.

One JSON line each. A command: ``{"id", "realm": [tenant, app], "type", "body"}``. What it was told: ``{"id", "status",
"code", "detail", "data", "position": [shard, epoch, offset], "replayed"}``, or ``{"id", "error", "detail"}`` when there
is no answer. The end of the input stops it in good order. Its only argument is JSON: ``{"dsn", "timeouts", "engine",
"on_loop", "clock_ahead_seconds"}``: whether the engine runs on an event loop or on a thread of its own, and how far the
clock of the machine is ahead of everybody else's.
"""

import ctypes
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import time_machine

from command.engine import Busy, Engine, EngineSettings, EngineStopped, Outcome
from command.handlers import HANDLERS
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.registry import command_class
from infra.postgres.connections import Timeouts
from infra.postgres.log import PostgresEventLog
from tests.loops import running_engine

_PR_SET_PDEATHSIG = 1


def main(options: dict[str, Any]) -> None:
    """Answer until the input ends."""
    if sys.platform.startswith("linux"):  # Even a stopped one must not stay behind when the test is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if ahead := timedelta(seconds=options["clock_ahead_seconds"]):
        time_machine.travel(datetime.now(UTC) + ahead, tick=True).start()
    log = PostgresEventLog(options["dsn"], timeouts=Timeouts(**options["timeouts"]))
    settings = EngineSettings(**options["engine"])
    with running_engine(log, HANDLERS, settings, on_loop=options["on_loop"]) as engine:
        listen(engine)
    log.close()


def listen(engine: Engine) -> None:
    """Send on what is asked."""
    for line in sys.stdin.buffer:
        envelope = _envelope(orjson.loads(line))
        try:
            engine.submit_to([(envelope, lambda outcome, sent=envelope: _tell(sent.command_id, outcome))])  # type: ignore[misc]
        except (Busy, EngineStopped) as error:
            _tell(envelope.command_id, error)


def _envelope(line: dict[str, Any]) -> CommandEnvelope:
    command = command_class(line["type"]).model_validate_json(orjson.dumps(line["body"]))
    return CommandEnvelope(Realm(*line["realm"]), line["id"], command, actor="fleet", correlation_id=line["id"])


def _tell(command_id: str, outcome: Outcome) -> None:
    if isinstance(outcome, Answer):
        told: dict[str, Any] = {
            "status": outcome.status,
            "code": outcome.code,
            "detail": outcome.detail,
            "data": outcome.data,
            "position": list(outcome.position),
            "replayed": outcome.replayed,
        }
    else:
        told = {"error": type(outcome).__name__, "detail": str(outcome)}
    os.write(sys.stdout.fileno(), orjson.dumps({"id": command_id, **told}) + b"\n")


if __name__ == "__main__":
    main(orjson.loads(sys.argv[1]))
