"""The process that owns a `chdb` folder and lets everybody else reach it by ClickHouse's HTTP interface."""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

import uvicorn

from infra.embedded.clickhouse_engine import ChdbEngine
from infra.embedded.clickhouse_http import ClickHouseHttp
from infra.processes import LOOPBACK, FolderInUse, FolderLock, wait_until

SHUTDOWN_SECONDS = 5  # For requests under way, when asked to stop.
CANCEL_SECONDS = 3.0  # For statements that are told to stop after that.
KEEP_ALIVE_SECONDS = 3600  # Never before a client's own pool gives a connection up: a request could meet the close.


def main() -> None:
    """Serve until SIGTERM or SIGINT. Exit code 1 and one line on stderr when the folder is in use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", default="default", help="made when it does not exist")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FolderLock(folder):
            _serve(folder, arguments.port, arguments.database)
    except FolderInUse as error:
        sys.exit(f"clickhouse: {error}")


def _serve(folder: Path, port: int, database: str) -> None:
    spool_folder = folder / "spool"
    shutil.rmtree(spool_folder, ignore_errors=True)  # Bodies that a killed server had not finished reading.
    spool_folder.mkdir()
    engine = ChdbEngine(folder / "data")
    if database != "default":
        engine.create_database(database)
    app = ClickHouseHttp(engine, spool_folder)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)  # uvicorn raises its signal again when it is done; the end is ours.
    config = uvicorn.Config(
        app,
        host=LOOPBACK,
        port=port,
        lifespan="off",
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    uvicorn.Server(config).run()
    _close(engine)


def _close(engine: ChdbEngine) -> None:
    engine.cancel_all()
    if not wait_until(lambda: engine.is_idle, timeout_seconds=CANCEL_SECONDS):
        os._exit(1)  # A statement that cannot be stopped; its folder is made to survive this.
    engine.close()


if __name__ == "__main__":
    main()
