"""Problems (RFC 9457): the one place that decides which refusal, bad input or failure is which status."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from contracts.refusals import CommandIdReused, Conflict, Malformed, NotFound, Refusal

TYPE_PREFIX: Final = "urn:tessera:problem:"
ERRORS_MAX: Final = 50

# The most specific class wins.
_STATUS_OF_REFUSAL: Final[dict[type[Refusal], HTTPStatus]] = {
    NotFound: HTTPStatus.NOT_FOUND,
    Malformed: HTTPStatus.UNPROCESSABLE_ENTITY,
    CommandIdReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    Conflict: HTTPStatus.CONFLICT,
}

# What the edge itself answers, before or instead of a decision: code -> (status, may the same request be retried?).
_EDGE: Final[dict[str, tuple[HTTPStatus, bool]]] = {
    "malformed_json": (HTTPStatus.BAD_REQUEST, False),
    "too_deep": (HTTPStatus.BAD_REQUEST, False),
    "body_incomplete": (HTTPStatus.BAD_REQUEST, True),
    "unauthenticated": (HTTPStatus.UNAUTHORIZED, False),
    "key_expired": (HTTPStatus.UNAUTHORIZED, False),
    "key_revoked": (HTTPStatus.UNAUTHORIZED, False),
    "scope_missing": (HTTPStatus.FORBIDDEN, False),
    "route_unknown": (HTTPStatus.NOT_FOUND, False),
    "method_not_allowed": (HTTPStatus.METHOD_NOT_ALLOWED, False),
    "command_in_flight": (HTTPStatus.CONFLICT, True),
    "not_placeable": (HTTPStatus.UNPROCESSABLE_ENTITY, False),
    "body_too_large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, False),
    "batch_too_large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, False),
    "busy": (HTTPStatus.SERVICE_UNAVAILABLE, True),
    "stopping": (HTTPStatus.SERVICE_UNAVAILABLE, True),
    "store_unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, True),
    "newer_version_needed": (HTTPStatus.SERVICE_UNAVAILABLE, True),
    "answer_late": (HTTPStatus.SERVICE_UNAVAILABLE, True),
    "read_model_unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, True),
    "position_not_reached": (HTTPStatus.SERVICE_UNAVAILABLE, True),
    "internal": (HTTPStatus.INTERNAL_SERVER_ERROR, True),
}


class FieldError(NamedTuple):
    """What is wrong at one place of the request. ``pointer`` is a JSON Pointer (RFC 6901) into the body."""

    pointer: str
    code: str
    message: str


class Problem(Exception):
    """Why a request got no good answer. Any code that the tables here do not know is a malformed request (422).

    ``headers`` are for HTTP only.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.extra = extra or {}
        self.headers = dict(headers or {})
        self.status, self.retryable = status_of(code)
        if retryable is not None:
            self.retryable = retryable

    def body(self, request_id: str) -> dict[str, Any]:
        """The problem as JSON members. Ours win over ``extra`` members of the same name."""
        errors = [error._asdict() for error in self.errors[:ERRORS_MAX]]
        return {
            **self.extra,
            "type": TYPE_PREFIX + self.code,
            "title": self.code.replace("_", " ").capitalize(),
            "status": int(self.status),
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
            "errors": errors,
            "request_id": request_id,
        }


def status_of(code: str) -> tuple[HTTPStatus, bool]:
    """The status of a code and whether the same request may be retried; refusals are final, so never."""
    if (edge := _EDGE.get(code)) is not None:
        return edge
    return _REFUSAL_STATUS.get(code, HTTPStatus.UNPROCESSABLE_ENTITY), False


def known_codes() -> dict[str, int]:
    """Every code that has a status of its own, for the documentation."""
    return {code: int(status_of(code)[0]) for code in (*_EDGE, *_REFUSAL_STATUS)}


def pointer_to(location: Sequence[str | int]) -> str:
    """A JSON Pointer: ``pointer_to(("lines", 0, "sku")) == "/lines/0/sku"``."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)


def _descendants(refusal: type[Refusal]) -> Iterator[type[Refusal]]:
    for child in refusal.__subclasses__():
        yield child
        yield from _descendants(child)


def _status_of_refusal(refusal: type[Refusal]) -> HTTPStatus:
    return next(_STATUS_OF_REFUSAL[ancestor] for ancestor in refusal.__mro__ if ancestor in _STATUS_OF_REFUSAL)


_REFUSAL_STATUS: Final = {refusal.code: _status_of_refusal(refusal) for refusal in _descendants(Refusal)}
# What a refusal says when it has nothing particular to say.
WORDS: Final = {refusal.code: (refusal.__doc__ or "").strip() for refusal in _descendants(Refusal)}
