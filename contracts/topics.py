"""Every topic that we write or read: which way it goes, what it carries, how it is keyed and how long it is kept."""

from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["published", "taken in", "dead letters"]
CleanupPolicy = Literal["delete", "compact"]

_DAY_MS: Final = 24 * 60 * 60 * 1_000
_WRITTEN_BYTES_MAX: Final = 2 * 1_048_576  # What was taken in as large as can be, and what we write about it.
_SUFFIX: Final = "-topic"
_DEAD_LETTER_SUFFIX: Final = "-dead-letter-topic"

# A value of ours has at most half of it; headers and framing have room beside it.
MESSAGE_BYTES_MAX: Final = 2 * 1_048_576

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
    ``message_bytes_max`` is how large one may be; None: as large as the broker usually takes (1 MiB).
    """

    name: str
    direction: Direction
    about: str
    key: str
    headers: tuple[Header, ...]
    retention_ms: int
    kinds: tuple[str, ...] = ()
    cleanup_policy: CleanupPolicy = "delete"
    message_bytes_max: int | None = None


STREAM_KEY: Final = "the stream's id: tenant/app/kind/key, each part escaped"

EVENT_HEADERS: Final = (
    Header("event-id", "Names this event for ever.", always=False),
    Header("type", f"The stored name, such as coupon.redeemed.v1, or {WATERMARK}: a record without an event."),
    Header("version", "The event's number in its stream, from 1.", always=False),
    Header("position", "Where in which log: an opaque token, as answers carry it. A watermark's: how far it says."),
    Header("previous", "The offset, in the log, of the shard's event before this one in this partition; 0: none."),
    Header("tenant", "Whose.", always=False),
    Header("app", "Of which of the tenant's apps.", always=False),
    Header("occurred-at", "Business time: RFC 3339, UTC, microseconds.", always=False),
    Header("recorded-at", "The store's time: RFC 3339, UTC, microseconds.", always=False),
    Header("actor", "Who asked for it: a key or a principal.", always=False),
    Header("command-id", "The command that it came of.", always=False),
    Header("correlation", "What belongs together across commands.", always=False),
    Header("causation", "What caused the command.", always=False),
    Header("traceparent", "W3C trace context.", always=False),
)

_REALM_HEADERS: Final = (
    Header("tenant", "Whose; where none is set, the installation's default.", always=False),
    Header("app", "Of which of the tenant's apps.", always=False),
)
COMMAND_HEADERS: Final = (
    *_REALM_HEADERS,
    Header("command-id", "Unique within tenant and app: sending it again has no second effect.", always=False),
    Header("type", "The command's name, such as claim_coupon; or else it is in the value.", always=False),
    Header("correlation", "What belongs together across commands.", always=False),
    Header("traceparent", "W3C trace context.", always=False),
)
FACT_HEADERS: Final = (
    *_REALM_HEADERS,
    Header(
        "type", "The upstream's name of the event, such as order.created; or else it is in the value.", always=False
    ),
    Header("event-id", "The upstream's id of the event, where the name is in a header, too.", always=False),
    Header("correlation", "What belongs together across commands.", always=False),
    Header("traceparent", "W3C trace context.", always=False),
)
REPLY_HEADERS: Final = (
    Header("command-id", "The command that this answers."),
    Header("tenant", "Whose."),
    Header("app", "Of which of the tenant's apps."),
    Header("correlation", "As the command said, else its id."),
    Header("code", "ok, or the refusal's stable code."),
    Header("replayed", "true when the command had been answered before: the value is the same."),
    Header("traceparent", "W3C trace context.", always=False),
)
DEAD_LETTER_HEADERS: Final = (
    Header("reason", "Why it could not be taken in: a stable code.", always=False),
    Header("detail", "The same in words.", always=False),
    Header("origin-topic", "Where it came from."),
    Header("origin-partition", "And its partition there."),
    Header("origin-offset", "And its offset there: together the letter's name."),
    Header("refused-at", "When: RFC 3339, UTC.", always=False),
    Header("cut", "true when its value was too large to be kept whole.", always=False),
    Header("null-value", "true when it had neither key nor value.", always=False),
    Header("settled", "requeued or dropped: a mark without a value that says what became of a letter.", always=False),
    Header("settled-at", "When: RFC 3339, UTC.", always=False),
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
    message_bytes_max=_WRITTEN_BYTES_MAX,
)


def _taken_in(name: str, about: str, key: str, headers: tuple[Header, ...]) -> Topic:
    return Topic(
        name=f"{name}{_SUFFIX}",
        direction="taken in",
        about=about,
        key=key,
        headers=headers,
        retention_ms=7 * _DAY_MS,
    )


COMMANDS: Final = _taken_in(
    "coupon-command",
    "Commands, by the names and bodies of POST /v1/commands; answered on command-reply-topic.",
    "whatever must stay in order, such as the coupon's or the user's id",
    COMMAND_HEADERS,
)
ORDER_FACTS: Final = _taken_in(
    "order-event", "What order systems say happened: placed, cancelled, reopened.", "the order's id", FACT_HEADERS
)
PAYMENT_FACTS: Final = _taken_in(
    "payment-event", "What payment systems say happened: payments and refunds.", "the order's id", FACT_HEADERS
)

TAKEN_IN: Final = (COMMANDS, ORDER_FACTS, PAYMENT_FACTS)


def _dead_letters_of(topic: Topic) -> Topic:
    return Topic(
        name=dead_letter_name(topic.name),
        direction="dead letters",
        about=f"Messages of {topic.name} that could not be taken in, as they came, with the reason.",
        key="as it came",
        headers=(*topic.headers, *DEAD_LETTER_HEADERS),
        retention_ms=90 * _DAY_MS,  # Somebody has to look; that takes longer than for machines.
        message_bytes_max=_WRITTEN_BYTES_MAX,
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
