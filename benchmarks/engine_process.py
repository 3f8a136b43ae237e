"""Our side of an engine in a process of its own: start it, give orders, read its processor time, stop it."""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

STOP_SECONDS: Final = 40.0
ROOT_MODULE: Final = "benchmarks.engine_child"


class ChildFailed(RuntimeError):
    """An order was not carried out; the message is the child's."""


class EngineProcess:
    """A context manager around one ``engine_child``. ``name`` keeps its users and orders apart from those of others."""

    def __init__(self, dsn: str, name: str = "a", *, runs_on: str = "loop") -> None:
        """``runs_on``: "loop" or "thread", see there."""
        self._dsn = dsn
        self._arguments = [runs_on, name]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the child has ended.
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", ROOT_MODULE, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is the parent's: it closes the child's input, and the child ends in order.
        )
        try:
            self._say(self._dsn)  # Not on the command line: it holds a password.
            self._answer()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(at_once=error is not None)

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give an order and wait until it is carried out. Raises ChildFailed."""
        self._say(json.dumps({"do": do, **arguments}))
        return self._answer()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(self._last_words()) from None

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(self._last_words())
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise ChildFailed(told["error"])
        return told

    def _stop(self, *, at_once: bool = False) -> None:
        if at_once:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process.stdout.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._process.wait(STOP_SECONDS)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()
        return f"the engine's process ended with {self._process.returncode}: {words[-2_000:]}"


def order_all(children: list[EngineProcess], do: str, **arguments: Any) -> list[dict[str, Any]]:
    """The same order to several children at the same time."""
    with ThreadPoolExecutor(len(children)) as pool:
        return list(pool.map(lambda child: child.order(do, **arguments), children))
