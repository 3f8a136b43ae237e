"""The command log against the books: no effect without an accepted command, no accepted claim without its coupon."""

from collections.abc import Iterable, Iterator, Mapping

from query.verify.books import Books, Realm
from query.verify.raw import RawAnswer, Violation


def check_answers(books: Books, answers: Iterable[RawAnswer]) -> Iterator[Violation]:
    """I2, I3 and I4, for all commands whose answers are still kept. Those of one command come next to each other.

    Answers are dropped after their time; effects older than the oldest kept answer are left alone.
    """
    effects = books.commands()
    unanswered, oldest, before = set(effects), books.last_offset + 1, None
    for answer in answers:  # Far too many to remember.
        key = ((answer.tenant_id, answer.app_id), answer.command_id)
        if before is not None and before[0] == key:
            yield Violation("I4", _name(key), f"two answers are on record: {before[1]} and {answer.status}")
        before, oldest = (key, answer.status), min(oldest, answer.offset)
        unanswered.discard(key)
        if answer.status == "accepted" and answer.command_type == "claim_coupon":
            yield from _check_claim(books, key, answer)
        yield from _check_effect(effects, key, answer)
    for key in sorted(unanswered):
        first, last = effects[key]
        if first >= oldest:
            yield Violation("I3", _name(key), f"events {first}..{last} have no command in the log", first)


def _check_claim(books: Books, key: tuple[Realm, str], answer: RawAnswer) -> Iterator[Violation]:
    if answer.coupon_id is None or (key[0], answer.coupon_id) not in books.coupons:
        yield Violation("I2", _name(key), f"the claim was acknowledged, but coupon {answer.coupon_id} does not exist")


def _check_effect(
    effects: Mapping[tuple[Realm, str], tuple[int, int]], key: tuple[Realm, str], answer: RawAnswer
) -> Iterator[Violation]:
    if (effect := effects.get(key)) is None:
        return
    first, last = effect
    if answer.status != "accepted":
        yield Violation("I3", _name(key), f"events {first}..{last}, but the command was {answer.status}", first)
    elif answer.offset < last:
        yield Violation("I2", _name(key), f"answered at {answer.offset}, but has effects up to {last}", last)


def _name(key: tuple[Realm, str]) -> str:
    (tenant_id, app_id), command_id = key
    return f"command {tenant_id}/{app_id}/{command_id}"
