"""What the HTTP front must know about a statement before the engine sees it: kind, format, where its data begins."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(
    rb"""(?P<blank>\s+|--[^\n]*|\#[^\n]*|/\*.*?\*/)
       | (?P<quoted>'(?:[^'\\]|\\.|'')*' | `(?:[^`\\]|\\.|``)*` | "(?:[^"\\]|\\.|"")*")
       | (?P<word>[A-Za-z_]\w*)
       | (?P<open>[(\[{]) | (?P<close>[)\]}])
       | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BEFORE_DATA = re.compile(rb"[ \t\f]*\r?\n?")  # Data starts after the first newline, else after the blanks.
_WITH_RESULT = frozenset(
    "SELECT WITH FROM VALUES SHOW DESCRIBE DESC EXPLAIN EXISTS CHECK KILL".split()  # noqa: SIM905 - reads better.
)
_FILE_CLAUSES = frozenset({("INTO", "OUTFILE"), ("FROM", "INFILE")})


@dataclass(frozen=True)
class InsertData:
    """An INSERT whose rows follow it in the body.

    `target` is `INSERT INTO t (a, b)`, `settings` its `SETTINGS …` clause or nothing, and the rows begin
    `offset_bytes` after the start of the body.
    """

    target: str
    settings: str
    format: str
    offset_bytes: int


@dataclass(frozen=True)
class Statement:
    """What stands at the beginning of a body: `format` is its own FORMAT clause, upper-case `kind` its first word."""

    kind: str
    format: str | None
    insert: InsertData | None
    touches_server_files: bool

    @property
    def has_result(self) -> bool:
        return self.kind in _WITH_RESULT

    @property
    def only_reads(self) -> bool:
        return self.kind in {"SELECT", "WITH", "FROM"}


def read_statement(body: bytes) -> Statement:
    """Read as much of the statement as `body` holds; rows after an INSERT … FORMAT are not looked at.

    Never fails: what is no SQL is left for the engine to refuse.
    """
    words: list[_Word] = []
    for word in _top_level_words(body):
        words.append(word)
        insert = _insert_data(body, words)
        if insert is not None:
            return Statement("INSERT", insert.format, insert, touches_server_files=_touches_files(words))
        if words[0].upper == "INSERT" and word.upper == "VALUES":
            break  # Rows of text, which the engine reads by itself.
    kind = words[0].upper if words else ""
    return Statement(kind, _result_format(body, words), None, touches_server_files=_touches_files(words))


@dataclass(frozen=True)
class _Word:
    upper: str
    text: str
    start: int
    end: int


def _top_level_words(body: bytes) -> Iterator[_Word]:
    """The words outside brackets and quotes; those inside a leading bracket count, as in `(SELECT 1) UNION …`."""
    depth, seen_word = 0, False
    for token in _TOKEN.finditer(body):
        if token.lastgroup == "open":
            depth += seen_word
        elif token.lastgroup == "close":
            depth -= depth > 0
        elif token.lastgroup == "word" and depth == 0:
            seen_word = True
            text = token.group().decode()
            yield _Word(text.upper(), text, token.start(), token.end())


def _insert_data(body: bytes, words: list[_Word]) -> InsertData | None:
    """Set when the last two words are the FORMAT clause of an INSERT that brings its rows along."""
    if len(words) < 3 or words[0].upper != "INSERT" or words[-2].upper != "FORMAT":
        return None
    if words[-1].upper == "VALUES" or any(word.upper in {"SELECT", "WITH", "VALUES"} for word in words[:-2]):
        return None
    clause = words[-2]
    settings = next((word for word in words if word.upper == "SETTINGS"), clause)
    between = _BEFORE_DATA.match(body, words[-1].end)
    return InsertData(
        target=body[: settings.start].decode(errors="replace").strip(),
        settings=body[settings.start : clause.start].decode(errors="replace").strip(),
        format=words[-1].text,
        offset_bytes=between.end() if between else words[-1].end,
    )


def _result_format(body: bytes, words: list[_Word]) -> str | None:
    """The name after the last FORMAT, when nothing but a SETTINGS clause or a semicolon follows it."""
    for index in range(len(words) - 2, 0, -1):
        if words[index].upper == "FORMAT":
            name, rest = words[index + 1], words[index + 2 :]
            ends_here = not rest and body[name.end :].strip(b" \t\r\n;") == b""
            return name.text if ends_here or (rest and rest[0].upper == "SETTINGS") else None
    return None


def _touches_files(words: list[_Word]) -> bool:
    return any((first.upper, second.upper) in _FILE_CLAUSES for first, second in pairwise(words))
