"""Ids of commands as callers tell them: bounded, and none that our own processes need."""

from typing import Final

from contracts.access import Caller, Scope
from contracts.values import ID_LENGTH_MAX
from infra.entry.bodies import malformed
from infra.entry.problems import FieldError

# Whoever took one of these ids before its saga, timer, distribution, lease, upstream event or import's row did would
# silence it. Nobody needs them as ids of his own: our processes ask the engine itself, and the endpoint of upstream
# events gives theirs.
_KEPT_PREFIXES: Final = ("saga:", "timer:", "distribution:", "lease:", "upstream:", "import:")


def callers_id(caller: Caller, text: str, where: str) -> str:
    """An id of the caller's own; those of sagas, timers, distributions and leases are for who may act for them."""
    if text.startswith(_KEPT_PREFIXES) and Scope.PROCESSES_WRITE not in caller.scopes:
        kept = f"{', '.join(_KEPT_PREFIXES[:-1])} or {_KEPT_PREFIXES[-1]}"
        message = f"must not begin with {kept} because such ids are kept for our own processes"
        raise malformed([FieldError(where, "malformed_command_id", message)])
    return bounded_id(text, where)


def bounded_id(text: str, where: str) -> str:
    """An id that may stand in a header and in the command log. Raises Problem."""
    if 0 < len(text) <= ID_LENGTH_MAX and text.isascii() and text.isprintable() and text == text.strip():
        return text
    message = f"must be 1 to {ID_LENGTH_MAX} printable ASCII characters without surrounding white space"
    raise malformed([FieldError(where, "malformed_command_id", message)])
