"""Where a command finds its servers."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from infra.cli.command import Session
from infra.cli.console import Output
from infra.stack import RunningStack

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


def test_what_the_shell_says_otherwise_than_a_running_stack_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = RunningStack(
        pid=os.getpid(),
        http_url="http://127.0.0.1:8080",
        http_port=8080,
        postgres_dsn="postgresql://u:p@127.0.0.1:5432/d",
        redis_url="redis://127.0.0.1:6379/0",
        clickhouse_url="http://u:p@127.0.0.1:8123/d",
        started_at="",
        placement={"shard": 0, "tenant_shards": {"acme": 0}},
        kafka={"kafka_bootstrap": "127.0.0.1:9092", "kafka_prefix": "", "follower_feed": "kafka"},
    )
    (tmp_path / "endpoints.json").write_text(json.dumps(asdict(stack)))
    for name, text in (
        ("TESSERA_POSTGRES_DSN", ""),
        ("TESSERA_REDIS_URL", "redis://elsewhere:6379/0"),
        ("TESSERA_KAFKA_PREFIX", "mine."),
        ("TESSERA_KAFKA_BOOTSTRAP", "127.0.0.1:9092"),  # As the stack has it.
        ("TESSERA_TENANT_SHARDS", '{"acme":0}'),  # Likewise.
        ("TESSERA_LOG_LEVEL", "error"),  # Not the stack's to say.
    ):
        monkeypatch.setenv(name, text)
    session = Session(Output(as_json=True), tmp_path)
    assert (session.settings.kafka_prefix, session.settings.log_level) == ("", "error")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("TESSERA_REDIS_URL, TESSERA_KAFKA_PREFIX of the environment: not heeded")
    assert len(said.err.splitlines()) == 1
    assert "elsewhere" not in said.err  # Addresses hold passwords.
