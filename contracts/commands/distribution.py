"""What merchants ask of distributions, and what their runner sends."""

from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field

from contracts.commands.base import Command
from contracts.values import ID_LENGTH_MAX, Id, Text

DISTRIBUTION_USERS_MAX: Final = 1_000_000
CHUNK_USERS_MAX: Final = 1_000


def _ids(values: tuple[str, ...]) -> tuple[str, ...]:
    # One pass over all of them: a validator for each would cost more than deciding what they get.
    if not all(0 < len(each) <= ID_LENGTH_MAX and each.isprintable() and each == each.strip() for each in values):
        raise ValueError(f"each must be 1 to {ID_LENGTH_MAX} printable characters without surrounding white space")
    return values


class StartDistribution(Command):
    """Give one template to a list of users, whose rows were staged before.

    ``users_sha256``: of the list, in hexadecimal; what tells it from another one of the same length.
    """

    type: ClassVar[str] = "start_distribution"

    distribution_id: Id
    template_id: Id
    users: Annotated[int, Field(gt=0, le=DISTRIBUTION_USERS_MAX)]
    users_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class IssueDistributionChunk(Command):
    """Decide the next rows of a distribution in one go (its runner's)."""

    type: ClassVar[str] = "issue_distribution_chunk"

    distribution_id: Id
    first_row: Annotated[int, Field(gt=0, le=DISTRIBUTION_USERS_MAX)]
    user_ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=CHUNK_USERS_MAX), AfterValidator(_ids)]


class PauseDistribution(Command):
    """Stop after the chunk that is being decided."""

    type: ClassVar[str] = "pause_distribution"

    distribution_id: Id
    reason: Text = ""


class ResumeDistribution(Command):
    """Go on where it stopped."""

    type: ClassVar[str] = "resume_distribution"

    distribution_id: Id


class CancelDistribution(Command):
    """End it for ever; what was issued stays issued."""

    type: ClassVar[str] = "cancel_distribution"

    distribution_id: Id
    reason: Text = ""
