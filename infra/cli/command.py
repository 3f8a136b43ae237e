"""How a command is registered: common options, an example in its help, one guard around it, one session inside it."""

import functools
import inspect
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import typer

from infra.cli.console import Output, silence_stdout
from infra.cli.errors import CliError, ExitCode, explain
from infra.settings import DEFAULT_DATA_DIR, Settings

P = ParamSpec("P")
Body = Callable[Concatenate["Session", P], ExitCode | None]

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
_DATA_DIR = Annotated[
    Path,
    typer.Option("--data-dir", envvar="TESSERA_DATA_DIR", help="The folder of the local stack and of tessera.toml."),
]
_DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback when something goes wrong.")]

_COMMON = (("as_json", _JSON, False), ("data_dir", _DATA_DIR, DEFAULT_DATA_DIR), ("debug", _DEBUG, False))


class Session:
    """What a command works with: where to print, which folder, which servers."""

    def __init__(self, out: Output, data_dir: Path) -> None:
        self.out = out
        self.data_dir = data_dir

    @cached_property
    def settings(self) -> Settings:
        """The addresses that are set, else those of the local stack that runs on the data folder.

        Raises CliError when there are neither, SettingsError when one is wrong.
        """
        if not _addresses_are_set():
            from infra.stack import running_stack  # With all its engines: nothing that a server process should load.

            if (local := running_stack(self.data_dir)) is not None:
                if passed_over := local.overrides(self.data_dir, os.environ):
                    self.out.note(_PASSED_OVER.format(names=", ".join(passed_over), folder=self.data_dir))
                return local.as_settings(self.data_dir)
        return self._named_settings()

    def _named_settings(self) -> Settings:
        from infra.settings import SettingsError

        try:
            return Settings.load(data_dir=self.data_dir)
        except SettingsError as error:
            if not all("is not set" in line for line in str(error).splitlines()):
                raise  # One of them is wrong: that is what to tell.
            raise CliError(
                f"no servers: no addresses are set, and no `tessera up` runs on {self.data_dir}",
                next_step="Run `tessera up` in another terminal, name its folder with --data-dir, or set "
                "TESSERA_POSTGRES_DSN, TESSERA_REDIS_URL and TESSERA_CLICKHOUSE_URL.",
                code=ExitCode.UNAVAILABLE,
            ) from None


_ADDRESSES: Final = ("TESSERA_POSTGRES_DSN", "TESSERA_REDIS_URL", "TESSERA_CLICKHOUSE_URL")
_PASSED_OVER: Final = (
    "{names} of the environment: not heeded. This works with the `tessera up` that runs on {folder}, by settings of "
    f"its own; for other servers set {', '.join(_ADDRESSES[:-1])} and {_ADDRESSES[-1]}."
)


def _addresses_are_set() -> bool:
    return all(os.environ.get(name) for name in _ADDRESSES)


def command(group: typer.Typer, name: str, *, example: str) -> Callable[[Body[P]], Body[P]]:
    """Register ``function(session, …) -> ExitCode | None`` under ``name``; its docstring is the help."""

    def register(function: Body[P]) -> Body[P]:
        @functools.wraps(function)
        def guarded(*args: Any, as_json: bool, data_dir: Path, debug: bool, **kwargs: Any) -> None:
            session = Session(Output(as_json=as_json), data_dir)
            _keep_logs_off_stdout("INFO" if debug else "ERROR")
            raise typer.Exit(guard(session.out, lambda: function(session, *args, **kwargs), debug=debug))

        _give_common_options(guarded, function)
        epilog = f"Example:  [bold]{example.replace('[', chr(92) + '[')}[/bold]"
        group.command(name, epilog=epilog, no_args_is_help=False)(guarded)
        return function

    return register


def stated(reason: str) -> str:
    """What ``--reason`` says, which is kept for others to read. Raises CliError when that is nothing."""
    if not reason.strip():
        raise CliError(
            "--reason says nothing",
            next_step="Say why in a few words: it is kept with who did it.",
            code=ExitCode.USAGE,
        )
    return reason.strip()


def _keep_logs_off_stdout(level: str) -> None:
    """Results are the only thing on stdout; what parts log goes to stderr, for people. Servers set it anew."""
    from infra.telemetry.logs import configure_logs

    configure_logs(level=level, human=True)


def _give_common_options(guarded: Callable[..., None], function: Callable[..., Any]) -> None:
    """Typer reads a command's options from its signature: take the session out and put the common ones in."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [inspect.Parameter(name, keyword, annotation=kind, default=default) for name, kind, default in _COMMON]
    parameters = [each.replace(kind=keyword) for each in own] + common
    guarded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    guarded.__annotations__ = {each.name: each.annotation for each in parameters}
    del guarded.__wrapped__  # type: ignore[attr-defined]  # Else the former signature is found through it.


def guard(out: Output, run: Callable[[], ExitCode | None], *, debug: bool) -> int:
    """Run a command's body; whatever goes wrong becomes a message and an exit code, never a traceback."""
    try:
        return int(run() or ExitCode.OK)
    except KeyboardInterrupt:
        out.note("Stopped.")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # Whoever read our output has enough.
        silence_stdout()
        return ExitCode.OK
    except Exception as error:  # Whatever it is: people get a message, --debug shows the rest.
        if debug:
            raise
        out.complain(explain(error))
        return explain(error).code
