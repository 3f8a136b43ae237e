"""A batch of codes as a file: some thousand codes at a time, so that memory does not grow with the batch."""

from collections.abc import Iterator
from typing import Final

from contracts.events import CodeBatchGenerated
from infra.codes.sealer import Sealer, runs

FORMATS: Final = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
_LINES: Final = {"csv": "%d,%s\r\n", "ndjson": '{"index":%d,"code":"%s"}\n'}


def export_pieces(sealer: Sealer, batch: CodeBatchGenerated, wanted: str) -> Iterator[bytes]:
    """Every code of a batch with its index, in pieces of at most RUN_CODES_MAX lines. ``wanted``: one of FORMATS."""
    head = b"index,code\r\n" if wanted == "csv" else b""
    line = _LINES[wanted]
    for first, count in runs(0, batch.count):
        codes = sealer.seal_run(batch.number, first, count)
        yield head + "".join([line % numbered for numbered in enumerate(codes, first)]).encode()
        head = b""
