"""A process of our own module that does what it is told over its pipes: an order per line, a JSON answer per line."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

ROOT: Final = Path(__file__).parents[2]
STOP_SECONDS_MAX: Final = 15.0


class Obedient:
    """From outside. Safe for several threads. Errors: RuntimeError when the process has ended."""

    module: ClassVar[str]

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS_MAX)
        self._process.stdin.close()
        self._process.stdout.close()

    def _order(self, order: dict[str, Any]) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.module} ended ({self._process.poll()}) when it was told {order}")
        return json.loads(answer)
