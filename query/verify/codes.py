"""The books of codes: each is used once, by whom it may be; a used code and the coupon it claimed name each other."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from query.verify.raw import RawEvent, Violation

Realm = tuple[str, str]
Key = tuple[Realm, str]

GENERATED: Final = "generated"
ASSIGNED: Final = "assigned"
USED: Final = "used"
VOIDED: Final = "voided"
BLOCK: Final = 10_000  # Codes that share a counter of those used, or void one by one.

# Which states an event may find a code in, and the state it leaves it in.
CODE_MOVES: Final[dict[str, tuple[frozenset[str], str]]] = {
    "code.assigned.v1": (frozenset({GENERATED}), ASSIGNED),
    "code.used.v1": (frozenset({GENERATED, ASSIGNED}), USED),
    "code.voided.v1": (frozenset({GENERATED, ASSIGNED}), VOIDED),
}
BATCH_EVENTS: Final = ("code_batch.generated.v1", "code_batch.assigned.v1", "code_batch.voided.v1")


@dataclass(slots=True)
class BatchBook:
    """One batch: how many codes it has, until when, what of it is void, and which codes something happened to."""

    count: int = 0
    template_id: str = ""
    valid_until: str | None = None
    voided: list[tuple[int, int]] = field(default_factory=list)
    states: dict[int, str] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)

    def is_dead(self, index: int, at: datetime) -> bool:
        """Whether a code of a voided range, or of a batch that has ended."""
        over = self.valid_until is not None and at >= datetime.fromisoformat(self.valid_until)
        return over or any(first <= index <= last for first, last in self.voided)


class CodeBooks:
    """Folds what is told of codes, and of coupons that were claimed by one."""

    def __init__(self) -> None:
        self.batches: dict[Key, BatchBook] = {}
        # Coupon -> (batch, template, user), by either side.
        self._claimed: dict[Key, tuple[Any, ...]] = {}
        self._used: dict[Key, tuple[Any, ...]] = {}
        self._used_by: dict[Key, str] = {}

    def batch_told(self, event: RawEvent) -> Iterator[Violation]:
        """A batch was generated, given out of, or voided."""
        data, key = event.data, (event.realm, event.data["batch_id"])
        if event.type == "code_batch.generated.v1":
            self.batches[key] = BatchBook(data["count"], data["template_id"], data["valid_until"])
        elif key not in self.batches:
            yield _broken("I10", event, f"batch {key[1]} is not of this realm")
        elif event.type == "code_batch.voided.v1":
            self.batches[key].voided += [(each["first_index"], each["last_index"]) for each in data["ranges"]]

    def code_moved(self, event: RawEvent) -> Iterator[Violation]:
        """One code was assigned, used or voided."""
        data = event.data
        index, batch = data["index"], self.batches.get((event.realm, data["batch_id"]))
        if batch is None or index >= batch.count or data["template_id"] != batch.template_id:
            yield _broken("I10", event, f"batch {data['batch_id']} of this realm has no such code")
            return
        allowed, after = CODE_MOVES[event.type]
        before = batch.states.get(index, GENERATED)
        if before not in allowed:
            yield _broken("I11", event, f"{event.type} finds the code {before}")
        if after == USED:
            yield from self._check_use(event, batch)
        batch.states[index] = after
        if after == ASSIGNED:
            batch.owners[index] = data["user_id"]

    def _check_use(self, event: RawEvent, batch: BatchBook) -> Iterator[Violation]:
        data, coupon = event.data, (event.realm, event.data["coupon_id"])
        if batch.is_dead(data["index"], event.occurred_at):
            yield _broken("I11", event, "used although its batch was void or over")
        if (owner := batch.owners.get(data["index"], data["user_id"])) != data["user_id"]:
            yield _broken("I11", event, f"used by {data['user_id']}, given to {owner}")
        if coupon in self._used:
            yield _broken("I2", event, f"coupon {coupon[1]} was claimed by {self._used_by[coupon]}, too")
        self._used[coupon] = (data["batch_id"], data["template_id"], data["user_id"])
        self._used_by[coupon] = event.stream

    def coupon_claimed(self, event: RawEvent) -> None:
        """A coupon that says it was claimed by a code."""
        data, about = event.data, event.data["about"]
        told = (data["reference"], about["template_id"], about["user_id"])
        self._claimed[event.realm, data["coupon_id"]] = told

    def finish(self) -> Iterator[Violation]:
        """I2: every used code has its coupon, and every coupon of a code has a code that claimed it."""
        for realm, coupon_id in sorted(self._used.keys() | self._claimed.keys()):
            used, claimed = self._used.get((realm, coupon_id)), self._claimed.get((realm, coupon_id))
            if used == claimed:
                continue
            subject = f"{'/'.join(realm)}/coupon/{coupon_id}"
            if claimed is None:
                by = self._used_by[realm, coupon_id]
                yield Violation("I2", subject, f"code {by} was used for it, but no code's coupon of this name exists")
            elif used is None:
                yield Violation("I2", subject, f"claimed by a code of {claimed[0]}, but no code was used for it")
            else:
                yield Violation("I2", subject, f"the coupon says {claimed}, the code that was used says {used}")

    def counters(self) -> Iterator[tuple[Realm, tuple[str, ...], int]]:
        """What the counters of each batch must say: realm, the parts of the counter's name, value."""
        names = {ASSIGNED: "codes_assigned", USED: "codes_used", VOIDED: "codes_voided"}
        for (realm, batch_id), batch in self.batches.items():
            states = Counter(batch.states.values())
            for state, name in names.items():
                yield realm, (name, batch_id), states[state]
            spent = (index for index, state in batch.states.items() if state in {USED, VOIDED})
            for block, codes in Counter(index // BLOCK for index in spent).items():
                yield realm, ("codes_spent", batch_id, str(block)), codes


def _broken(invariant: str, event: RawEvent, detail: str) -> Violation:
    return Violation(invariant, f"{event.stream}@{event.version}", detail, event.offset)
