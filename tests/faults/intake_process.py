"""An intake in a process of its own that kills itself at a chosen step: ``answered`` or ``replied``.

Its settings come from the environment. Which step is its only argument; any other lets it live.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from infra.bootstrap.workers import run_intake
from infra.intake.messages import Outgoing
from infra.intake.publisher import Publisher
from infra.intake.subscriber import TopicSubscriber
from infra.settings import Settings


def die() -> NoReturn:
    """At once, and without a word."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def die_before_the_replies(_self: Publisher, _messages: Sequence[Outgoing]) -> None:
    """The engine has answered; nobody was told."""
    die()


async def die_before_the_commit(_self: TopicSubscriber, *_: Any) -> None:
    """Everybody was told; the offsets do not say so."""
    die()


if __name__ == "__main__":
    step = sys.argv[1]
    if step == "answered":
        Publisher.publish = die_before_the_replies  # type: ignore[method-assign, assignment]
    elif step == "replied":
        TopicSubscriber._commit = die_before_the_commit  # type: ignore[method-assign, assignment]
    run_intake(Settings.load())
