"""The command log against the books: no effect without an accepted command, no accepted claim without its coupon."""

from collections.abc import Iterable, Iterator, Mapping

from query.verify.books import Books, Realm
from query.verify.raw import RawAnswer, Violation


def check_answers(books: Books, answers: Iterable[RawAnswer]) -> Iterator[Violation]:
    """I2, I3 and I4, for all commands whose answers are still kept.

    Answers are dropped after their time; effects older than the oldest kept answer are left alone.
    """
    kept: dict[tuple[Realm, str], RawAnswer] = {}
    for answer in answers:
        key = ((answer.tenant_id, answer.app_id), answer.command_id)
        if (first := kept.setdefault(key, answer)) is not answer:
            yield Violation("I4", _name(key), f"two answers are on record: {first.status} and {answer.status}")
        if answer.status == "accepted" and answer.command_type == "claim_coupon":
            yield from _check_claim(books, key, answer)
    yield from _check_effects(books, kept)


def _check_claim(books: Books, key: tuple[Realm, str], answer: RawAnswer) -> Iterator[Violation]:
    if answer.coupon_id is None or (key[0], answer.coupon_id) not in books.coupons:
        yield Violation("I2", _name(key), f"the claim was acknowledged, but coupon {answer.coupon_id} does not exist")


def _check_effects(books: Books, kept: Mapping[tuple[Realm, str], RawAnswer]) -> Iterator[Violation]:
    oldest = min((answer.offset for answer in kept.values()), default=books.last_offset + 1)
    for key, (first, last) in books.commands().items():
        if first < oldest and key not in kept:
            continue
        answer = kept.get(key)
        if answer is None:
            yield Violation("I3", _name(key), f"events {first}..{last} have no command in the log", first)
        elif answer.status != "accepted":
            yield Violation("I3", _name(key), f"events {first}..{last}, but the command was {answer.status}", first)
        elif answer.offset < last:
            yield Violation("I2", _name(key), f"answered at {answer.offset}, but has effects up to {last}", last)


def _name(key: tuple[Realm, str]) -> str:
    (tenant_id, app_id), command_id = key
    return f"command {tenant_id}/{app_id}/{command_id}"
