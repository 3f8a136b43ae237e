"""Every topic that we write or read: which way it goes, what it carries, how it is keyed and how long it is kept."""

from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["published", "taken in", "dead letters"]
CleanupPolicy = Literal["delete", "compact"]

_DAY_MS: Final = 24 * 60 * 60 * 1_000
_SUFFIX: Final = "-topic"
_DEAD_LETTER_SUFFIX: Final = "-dead-letter-topic"

PARTITIONS: Final = 4  # Of each topic, unless an installation sets another number before they are made.

TAKEN_IN_BYTES_MAX: Final = 1_048_588  # As brokers usually have it.
WRITTEN_BYTES_MAX: Final = 2 * 1_048_576  # What was taken in as large as can be, and what we write about it.

WATERMARK: Final = "watermark.v1"  # The `type` of a record that carries no event, only how far its lane is complete.


@dataclass(frozen=True, slots=True)
class Header:
    """One header of a message: UTF-8 text under a name; ``always`` says whether every message has it."""

    name: str
    about: str
    always: bool = True


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. ``name`` comes without the installation's prefix, see :func:`named`.

    ``kinds`` are the kinds of streams whose events it carries; empty: it carries no events, or those of all other
    kinds. ``key`` says what its messages are keyed by. ``retention_ms`` is how long a message is kept at least.
    ``message_bytes_max`` is how large a batch of them may be, the least that holds one included.
    """

    name: str
    direction: Direction
    about: str
    key: str
    headers: tuple[Header, ...]
    retention_ms: int
    kinds: tuple[str, ...] = ()
    cleanup_policy: CleanupPolicy = "delete"
    message_bytes_max: int = WRITTEN_BYTES_MAX


STREAM_KEY: Final = "the stream's id: tenant/app/kind/key, each part escaped"

_TRACE: Final = Header("traceparent", "W3C trace context.", always=False)
_PREVIOUS: Final = Header(
    "previous", "The offset, in the log, of the shard's event before this one in this partition; 0: none."
)
EVENT_HEADERS: Final = (
    Header("event-id", "Names this event for ever."),
    Header("type", "The stored name, such as coupon.redeemed.v1."),
    Header("version", "The event's number in its stream, from 1."),
    Header("position", "Where in which log: an opaque token, as answers carry it."),
    _PREVIOUS,
    Header("tenant", "Whose."),
    Header("app", "Of which of the tenant's apps."),
    Header("occurred-at", "Business time: RFC 3339, UTC, microseconds."),
    Header("recorded-at", "The store's time: RFC 3339, UTC, microseconds."),
    Header("actor", "Who asked for it: a key or a principal."),
    Header("command-id", "The command that it came of."),
    Header("correlation", "What belongs together across commands."),
    Header("causation", "What caused the command.", always=False),
    _TRACE,
)
WATERMARK_HEADERS: Final = (
    Header("type", f"{WATERMARK}: a record without an event. Whoever counts or projects events ignores it."),
    Header("position", "Every event of its shard up to here, as far as it belongs in this partition, precedes it."),
    _PREVIOUS,
)

TAKEN_IN_HEADERS: Final = (
    Header("tenant", "Whose; where none is set, the installation's default.", always=False),
    Header("app", "Of which of the tenant's apps.", always=False),
    Header("type", "The name of the command or event, where the value does not say it.", always=False),
    Header("command-id", "The command's id, likewise. Sent again, it has no second effect.", always=False),
    Header("event-id", "The upstream's id of its event, likewise.", always=False),
    Header("correlation", "What belongs together across commands.", always=False),
    _TRACE,
)
REPLY_HEADERS: Final = (
    Header("command-id", "The command that this answers."),
    Header("tenant", "Whose."),
    Header("app", "Of which of the tenant's apps."),
    Header("correlation", "As the command said, else its id."),
    Header("code", "ok, or the refusal's stable code."),
    Header("replayed", "true when the command had been answered before: the value is the same."),
    _TRACE,
)
_ORIGIN_HEADERS: Final = (
    Header("origin-topic", "Where it came from."),
    Header("origin-partition", "And its partition there."),
    Header("origin-offset", "And its offset there: together the letter's name."),
)
LETTER_HEADERS: Final = (
    Header("reason", "Why it could not be taken in: a stable code."),
    Header("detail", "The same in words."),
    *_ORIGIN_HEADERS,
    Header("refused-at", "When: RFC 3339, UTC."),
    Header("cut", "What was too large to be kept whole: value, key, headers, with commas.", always=False),
    Header("null-value", "true when it had neither key nor value.", always=False),
)
MARK_HEADERS: Final = (
    Header("settled", "requeued or dropped: what became of a letter. A mark has no value."),
    *_ORIGIN_HEADERS,
    Header("settled-at", "When: RFC 3339, UTC."),
    Header("settled-by", "Who settled it."),
    Header("settled-because", "And why, where somebody said so."),
)


def _events(name: str, about: str, *kinds: str) -> Topic:
    return Topic(
        name=f"{name}{_SUFFIX}",
        direction="published",
        about=about,
        key=STREAM_KEY,
        headers=EVENT_HEADERS,
        retention_ms=7 * _DAY_MS,  # Older events are read from the store's log, which keeps all of them.
        kinds=kinds,
    )


COUPON_EVENTS: Final = _events("coupon-event", "What happened to each coupon: claimed, locked, redeemed …", "coupon")
TEMPLATE_EVENTS: Final = _events("template-event", "Templates: activated, stock issued, paused, ended …", "template")
CHECKOUT_EVENTS: Final = _events("checkout-event", "Checkouts: priced, locked, completed, released …", "checkout")
SETTLEMENT_EVENTS: Final = _events("settlement-event", "What each order settled with the shop, signed.", "settlement")
BUDGET_EVENTS: Final = _events("budget-event", "Budgets: reserved, committed, thresholds reached …", "budget")
DISTRIBUTION_EVENTS: Final = _events("distribution-event", "How distributions to many users go.", "distribution")
NOTIFICATION_EVENTS: Final = _events("notification-event", "What users and operators are told.", "notification")
RECORDED_EVENTS: Final = _events("recorded-event", "Every event that no other topic carries, upstream facts included.")

REPLIES: Final = Topic(
    name="command-reply-topic",
    direction="published",
    about="The answer to each command and fact that was taken in: the same body as HTTP's, with tenant and app.",
    key="the command's id",
    headers=REPLY_HEADERS,
    retention_ms=7 * _DAY_MS,
)


def _taken_in(name: str, about: str, key: str) -> Topic:
    return Topic(
        name=f"{name}{_SUFFIX}",
        direction="taken in",
        about=about,
        key=key,
        headers=TAKEN_IN_HEADERS,
        retention_ms=7 * _DAY_MS,
        message_bytes_max=TAKEN_IN_BYTES_MAX,
    )


COMMANDS: Final = _taken_in(
    "coupon-command",
    "Commands, by the names and bodies of POST /v1/commands; answered on command-reply-topic.",
    "whatever must stay in order, such as the coupon's or the user's id",
)
ORDER_FACTS: Final = _taken_in(
    "order-event", "What order systems say happened: placed, cancelled, reopened.", "the order's id"
)
PAYMENT_FACTS: Final = _taken_in(
    "payment-event", "What payment systems say happened: payments and refunds.", "the order's id"
)

TAKEN_IN: Final = (COMMANDS, ORDER_FACTS, PAYMENT_FACTS)


def _dead_letters_of(topic: Topic) -> Topic:
    return Topic(
        name=dead_letter_name(topic.name),
        direction="dead letters",
        about=f"Messages of {topic.name} that could not be taken in, as they came, with the reason.",
        key="as it came",
        headers=(*topic.headers, *LETTER_HEADERS),
        retention_ms=90 * _DAY_MS,  # Somebody has to look; that takes longer than for machines.
    )


def dead_letter_name(topic: str) -> str:
    """``order-event-topic`` → ``order-event-dead-letter-topic``."""
    return f"{topic.removesuffix(_SUFFIX)}{_DEAD_LETTER_SUFFIX}"


DEAD_LETTERS: Final = tuple(_dead_letters_of(topic) for topic in TAKEN_IN)
EVENT_TOPICS: Final = (
    COUPON_EVENTS,
    TEMPLATE_EVENTS,
    CHECKOUT_EVENTS,
    SETTLEMENT_EVENTS,
    BUDGET_EVENTS,
    DISTRIBUTION_EVENTS,
    NOTIFICATION_EVENTS,
    RECORDED_EVENTS,
)
ALL_TOPICS: Final = (*EVENT_TOPICS, REPLIES, *TAKEN_IN, *DEAD_LETTERS)

# Fixed for each kind once it has events, as the number of partitions is: lanes fill holes by where a kind belongs now,
# and a lane's chain does not go over to another topic. Moved, its events would be heard in another order, or never.
_BY_KIND: Final = {kind: topic for topic in EVENT_TOPICS for kind in topic.kinds}
_DEAD_LETTERS_OF: Final = {topic.name: letters for topic, letters in zip(TAKEN_IN, DEAD_LETTERS, strict=True)}


def topic_of(kind: str) -> Topic:
    """The topic that carries the events of a kind of stream; a kind that none names goes to the one for the rest."""
    return _BY_KIND.get(kind, RECORDED_EVENTS)


def dead_letters_of(topic: Topic) -> Topic:
    """Where messages of a topic go that cannot be taken in. Raises KeyError for a topic that we do not take in."""
    return _DEAD_LETTERS_OF[topic.name]


def named(prefix: str, topic: Topic) -> str:
    """A topic's name in one installation: its prefix, then the name."""
    return f"{prefix}{topic.name}"
