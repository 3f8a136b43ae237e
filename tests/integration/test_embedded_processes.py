"""Supervised children: their deaths are noticed, their last words kept, and none is left behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.processes import (
    SERVER_PORTS,
    Child,
    ChildSpec,
    Ending,
    FolderInUse,
    FolderLock,
    end_leftover,
    free_port,
    port_is_free,
    spawn,
    wait_until,
    write_pid_file,
)
from infra.supervisor import Ended, RestartPolicy, Started, Supervisor

ONCE = RestartPolicy(ends_max=1)  # Whatever ends is given up.
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


def python(name: str, code: str, log_path: Path, **more: float) -> ChildSpec:
    return ChildSpec(name=name, argv=(sys.executable, "-c", code), log_path=log_path, **more)  # type: ignore[arg-type]


def run_to_end(spec: ChildSpec) -> Child:
    child = spawn(spec)
    assert wait_until(lambda: child.ending() is not None, timeout_seconds=20)
    return child


def said(child: Child, word: str) -> bool:
    return wait_until(lambda: word in child.log_tail(), timeout_seconds=20)


def test_the_child_that_ends_is_named_with_its_code_and_last_words(tmp_path: Path) -> None:
    with Supervisor(ONCE) as supervisor:
        supervisor.start(python("worker", "import time; time.sleep(60)", tmp_path / "worker.log"))
        supervisor.start(python("serve", "import sys; print('one'); sys.exit('out of luck')", tmp_path / "serve.log"))
        ended = supervisor.wait()
    assert ended is not None
    ending = ended.ending
    assert (ending.name, ending.exit_code, sorted(ending.log_tail.splitlines())) == ("serve", 1, ["one", "out of luck"])
    assert "serve ended (exit code 1)" in str(ending)


def test_a_child_that_is_killed_is_named_with_its_signal(tmp_path: Path) -> None:
    with Supervisor(ONCE) as supervisor:
        child = supervisor.start(python("worker", "import time; time.sleep(60)", tmp_path / "log"))
        os.kill(child.pid, signal.SIGKILL)
        ended = supervisor.wait()
    assert ended is not None
    assert str(ended.ending) == "worker ended (signal 9)"


def test_last_words_are_those_of_this_run(tmp_path: Path) -> None:
    children = [run_to_end(python("echo", f"print({word!r})", tmp_path / "log")) for word in ("first", "second")]
    assert children[-1].log_tail() == "second"
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_first_words_count_when_the_child_is_faster_than_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def start_slowly(*args: Any, **more: Any) -> Any:
        process = start(*args, **more)
        process.wait(20)  # It has said everything before its parent looks again.
        return process

    monkeypatch.setattr(subprocess, "Popen", start_slowly)
    child = spawn(python("hasty", "print('first words')", tmp_path / "log"))
    assert child.ending() == Ending("hasty", 0, "first words")


def test_an_adopted_child_is_watched_but_not_stopped(tmp_path: Path) -> None:
    engine = spawn(python("engine", "import time; time.sleep(60)", tmp_path / "log"))
    try:
        with Supervisor() as supervisor:
            supervisor.adopt(engine, lambda: spawn(engine.spec))
        assert engine.ending() is None
        with Supervisor(ONCE) as supervisor:
            supervisor.adopt(engine, lambda: spawn(engine.spec))
            os.kill(engine.pid, signal.SIGTERM)
            assert supervisor.wait() == Ended(Ending("engine", -signal.SIGTERM, ""), ends=1, pause_seconds=None)
    finally:
        engine.stop()


def test_what_was_started_again_is_the_same_and_is_stopped_at_the_end(tmp_path: Path) -> None:
    starts: list[int] = []

    def tell(what: Ended | Started) -> None:
        if isinstance(what, Started):
            starts.append(what.pid)
            os.kill(os.getpid(), signal.SIGTERM)

    spec = python("worker", "import time; print('here', flush=True); time.sleep(60)", tmp_path / "log")
    with Supervisor() as supervisor:
        os.kill(supervisor.start(spec).pid, signal.SIGKILL)
        assert supervisor.wait(tell) is None
        (pid,) = starts
        assert supervisor.pids == {"worker": pid}
        assert is_running(pid)
    assert not is_running(pid)


@pytest.mark.parametrize("asked_by", [signal.SIGINT, signal.SIGTERM])
def test_children_are_stopped_in_reverse_order_when_asked(tmp_path: Path, asked_by: signal.Signals) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys\n"
        f"def end(*_):\n    open({str(order)!r}, 'a').write(NAME + ' '); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    with Supervisor() as supervisor:
        for name in ("first", "second", "third"):
            child = supervisor.start(python(name, f"NAME = {name!r}\n{code}", tmp_path / f"{name}.log"))
            assert said(child, "ready")
        os.kill(os.getpid(), asked_by)
        assert supervisor.wait() is None
    assert order.read_text() == "third second first "


def test_whoever_asks_twice_does_not_wait_for_one_that_was_started_again(tmp_path: Path) -> None:
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
        "print('deaf', flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    log = tmp_path / "log"

    def ask() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def tell(what: Ended | Started) -> None:
        if isinstance(what, Started):
            assert wait_until(lambda: log.read_text().count("deaf") == 2, timeout_seconds=20)
            ask()

    def ask_again() -> None:
        if wait_until(lambda: log.exists() and "asked" in log.read_text(), timeout_seconds=40):
            ask()

    impatient = threading.Thread(target=ask_again, daemon=True)
    with Supervisor() as supervisor:
        first = supervisor.start(python("deaf", code, log, grace_seconds=3_600))
        assert said(first, "deaf")
        first.kill()
        impatient.start()
        assert supervisor.wait(tell) is None
        (pid,) = supervisor.pids.values()
    assert pid != first.pid
    assert not is_running(pid)


def test_a_child_that_does_not_listen_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = spawn(python("deaf", STUBBORN, tmp_path / "log", grace_seconds=0.2))
    assert said(child, "deaf")
    assert child.stop() == -signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children of a parent's death")
def test_children_hear_of_their_parents_death(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import sys, time; from pathlib import Path; from infra.processes import ChildSpec, spawn\n"
        f"argv = (sys.executable, '-c', 'import time; time.sleep(60)')\n"
        f"child = spawn(ChildSpec(name='c', argv=argv, log_path=Path({str(tmp_path / 'log')!r})))\n"
        f"Path({str(pid_file)!r}).write_text(str(child.pid)); print('up', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        pid = int(pid_file.read_text())
        assert is_running(pid)
        parent.kill()
        assert wait_until(lambda: not is_running(pid), timeout_seconds=20)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_an_earlier_run_left_is_ended_even_if_it_does_not_listen(tmp_path: Path) -> None:
    child = spawn(python("deaf", STUBBORN, tmp_path / "log"))
    assert said(child, "deaf")
    write_pid_file(tmp_path / "deaf.pid", child.pid)
    end_leftover(tmp_path / "deaf.pid", stop_signal=signal.SIGTERM, grace_seconds=0.2)
    assert wait_until(lambda: child.ending() is not None, timeout_seconds=5)
    assert not (tmp_path / "deaf.pid").exists()


def test_a_process_that_was_only_given_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    child = spawn(python("stranger", "import time; time.sleep(60)", tmp_path / "log"))
    try:
        (tmp_path / "old.pid").write_text(f"{child.pid} born-another-time\n")
        end_leftover(tmp_path / "old.pid", stop_signal=signal.SIGTERM, grace_seconds=1)
        assert child.ending() is None
    finally:
        child.stop()


def test_a_folder_has_one_owner_who_is_named(tmp_path: Path) -> None:
    message = f"{tmp_path} is in use by process {os.getpid()};"
    with FolderLock(tmp_path), pytest.raises(FolderInUse, match=message), FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path):
        pass


STOPPED_BY_A_SIGNAL_THAT_ANOTHER_THREAD_GOT = """
import signal, threading
from infra.processes import join_hearing_signals
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
idle = threading.Thread(target=stop.wait)
idle.start()
threading.Timer(0.3, lambda: signal.pthread_kill(idle.ident, signal.SIGTERM)).start()
join_hearing_signals([idle])
"""


def test_a_signal_that_another_thread_got_is_heard_while_the_main_one_waits() -> None:
    argv = [sys.executable, "-c", STOPPED_BY_A_SIGNAL_THAT_ANOTHER_THREAD_GOT]
    assert subprocess.run(argv, timeout=30, check=False).returncode == 0


def test_a_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    assert port_is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not port_is_free(port)


def test_a_free_port_is_none_of_those_that_outgoing_connections_get() -> None:
    first_of_theirs = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first_of_theirs < SERVER_PORTS.stop:
        pytest.skip(f"this machine gives outgoing connections ports from {first_of_theirs} on, which is not usual")
    first = free_port(neighbours=3)
    assert all(port_is_free(port) for port in range(first, first + 3))
    assert first + 3 <= first_of_theirs
