"""What is asked of codes. Commands name a code by batch and index: whoever holds its text has it opened at the edge."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from contracts.codes import CODES_PER_BATCH_MAX
from contracts.commands.base import Command
from contracts.values import Id, Instant, StrictValue, Text

USERS_PER_ASSIGNMENT_MAX = 1_000

Index = Annotated[int, Field(ge=0, lt=CODES_PER_BATCH_MAX)]
Reason = Annotated[Text, Field(min_length=1)]
CodeText = Annotated[str, Field(min_length=1, max_length=64)]


class GenerateCodes(Command):
    """Generate a batch of codes; each claims one coupon of the template. ``key_id`` is the realm's present key."""

    type: ClassVar[str] = "generate_codes"

    template_id: Id
    count: Annotated[int, Field(gt=0, le=CODES_PER_BATCH_MAX)]
    key_id: Annotated[str, Field(pattern="^k[0-9]{1,9}$")]
    name: Text = ""
    valid_until: Instant | None = None  # None: as long as the template can be claimed.


class AssignCodes(Command):
    """Give each of these users a code of the batch that only they may use: the next ones that nobody has."""

    type: ClassVar[str] = "assign_codes"

    batch_id: Id
    user_ids: Annotated[tuple[Id, ...], Field(min_length=1, max_length=USERS_PER_ASSIGNMENT_MAX)]

    @model_validator(mode="after")
    def _users_differ(self) -> Self:
        if len(set(self.user_ids)) != len(self.user_ids):
            raise ValueError("user_ids must not repeat")
        return self


class UseCode(Command):
    """Claim the code's coupon for a user. Sent by the edge, once it has opened the code."""

    type: ClassVar[str] = "use_code"

    batch_id: Id
    index: Index
    user_id: Id


class VoidCode(Command):
    """Take one code out of use, unless it was used."""

    type: ClassVar[str] = "void_code"

    batch_id: Id
    index: Index
    reason: Reason


class VoidCodes(Command):
    """Take a range of a batch's codes, or all of them, out of use; used ones stay used."""

    type: ClassVar[str] = "void_codes"

    batch_id: Id
    first_index: Index = 0
    last_index: Index | None = None  # Included. None: to the end of the batch.
    reason: Reason


class CodeToUse(StrictValue):
    """The body of a request to use a code."""

    code: CodeText
    user_id: Id


class BatchToGenerate(StrictValue):
    """The body of a request for a batch of codes."""

    template_id: Id
    count: Annotated[int, Field(gt=0, le=CODES_PER_BATCH_MAX)]
    name: Text = ""
    valid_until: Instant | None = None


class CodesToVoid(StrictValue):
    """The body of a request to void codes: one by its text, a range by its indices, or all."""

    reason: Reason
    code: CodeText | None = None
    first_index: Index | None = None
    last_index: Index | None = None
    all: bool = False

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        by_range = self.first_index is not None or self.last_index is not None
        if [self.code is not None, by_range, self.all].count(True) != 1:
            raise ValueError("name a code, a range by first_index and last_index, or all: true")
        if by_range and (self.first_index is None or self.last_index is None or self.first_index > self.last_index):
            raise ValueError("a range needs first_index and last_index, in this order")
        return self
