"""``tessera dead-letters`` for the intake: records that could not be taken in, named by where they came from."""

import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from infra.cli.command import Session
from infra.cli.errors import CliError, ExitCode
from infra.cli.followers import INTAKE

if TYPE_CHECKING:
    from infra.intake.dead_letters import Letter
    from infra.intake.letter_box import LetterBox

OPEN: Final = "open"
_STATES: Final = {None: OPEN, "requeued": "sent again", "dropped": "dropped"}
_ALL = "`tessera dead-letters list --follower intake --all` shows all."


def rows(session: Session, follower: str | None) -> list[dict[str, Any]]:
    """All letters as rows of the list, oldest first; none where no Kafka is set."""
    if follower not in {None, INTAKE} or (follower is None and session.settings.kafka_bootstrap is None):
        return []
    return [_row(letter) for letter in _box(session).letters()]


def show(session: Session, name: str) -> ExitCode:
    """One letter with its reason, its origin and all that it holds."""
    (letter,) = _named(_box(session), name)
    row = _row(letter) | {
        "key": _text(letter.key),
        "headers": [[header, _text(value)] for header, value in letter.headers],
        "value": _text(letter.value),
        "cut": bool(letter.cut),
        "cut_parts": letter.cut.split(",") if letter.cut else [],
        "settled": letter.settled,
    }
    text = Text(f"{letter.origin}", style="bold")
    text.append(f"   refused at {letter.refused_at}", style="dim")
    text.append(f", {letter.settled} at {letter.settled_at}\n" if letter.settled else "\n", style="dim")
    text.append(f"  {letter.reason}: {letter.detail}\n", style="red")
    text.append(f"  key {row['key']}\n", style="dim")
    for header, value in letter.headers:
        text.append(f"  {header}: {_text(value)}\n", style="dim")
    text.append(f"  {row['value']}\n")
    session.out.show({"dead_letters": [row]}, text)
    return ExitCode.OK if letter.settled else ExitCode.FINDINGS


def requeue(session: Session, name: str | None) -> ExitCode:
    """Send records to their topics again: one, or all that wait. What was sent again before is not.

    One that cannot be sent again keeps no other from it: it is named, and the exit code says so.
    """
    box = _box(session)
    letters = _named(box, name) if name is not None else box.letters()
    sent, stay = box.requeue(letters, actor=_actor())
    if name is not None and stay:
        (why,) = stay.values()
        raise CliError(f"it cannot be sent again: {why}", next_step="Have its sender send it again.")
    text = Text(_sent(sent, letters if name is not None else ()))
    for origin, why in stay.items():
        text.append(f"\n{origin} cannot be sent again: {why}. Have its sender send it again, and drop it.", style="red")
    shown = {"requeued": len(sent), "names": [str(each.origin) for each in sent]}
    cannot = [{"name": str(origin), "reason": why} for origin, why in stay.items()]
    session.out.show(shown | ({"cannot_be_sent": cannot} if cannot else {}), text)
    return ExitCode.FINDINGS if stay else ExitCode.OK


def _sent(sent: Sequence["Letter"], named: Sequence["Letter"]) -> str:
    """What became of it, in words; of one that was named and settled before, when that was."""
    if sent:
        return f"{len(sent):,} {'record is on its topic' if len(sent) == 1 else 'records are on their topics'} again."
    if settled := [letter for letter in named if letter.settled]:
        (letter, *_) = settled
        again = " If it failed again, that is a letter of its own." if letter.settled == "requeued" else ""
        return f"Nothing was sent again: {letter.origin} was {letter.settled} at {letter.settled_at}.{again}"
    return "Nothing was sent again."


def drop(session: Session, name: str, *, reason: str, yes: bool) -> None:
    """Give a record up. The topic keeps it."""
    box = _box(session)
    letters = _named(box, name)
    session.out.confirm(f"Nobody will send {name} again from here. Give it up?", yes=yes)
    dropped = box.drop(letters, actor=_actor(), because=reason)
    if not dropped:
        raise CliError(f"{name} was settled before", next_step=_ALL)
    session.out.show({"dropped": [_row(each) for each in dropped]}, Text(f"{name} is given up."))


def _box(session: Session) -> "LetterBox":
    from infra.intake.letter_box import LetterBox

    return LetterBox(session.settings)


def _named(box: "LetterBox", name: str) -> Sequence["Letter"]:
    found = [letter for letter in box.letters() if str(letter.origin) == name]
    if not found:
        raise CliError(f"there is no dead letter {name}", next_step=_ALL)
    return found


def _row(letter: "Letter") -> dict[str, Any]:
    """In the columns of parked events: the name of a letter stands where the stream does."""
    return {
        "shard": None,
        "state": _STATES[letter.settled],
        "follower": INTAKE,
        "stream": str(letter.origin),
        "version": None,
        "event_type": None,
        "attempts": 1,
        "reason": letter.reason,
        "detail": letter.detail,
        "last_failed_at": letter.refused_at,
        "requeued_at": letter.settled_at if letter.settled == "requeued" else None,
        "settled_at": letter.settled_at,
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _actor() -> str:
    return f"operator:{getpass.getuser()}"
