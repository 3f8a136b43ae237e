"""``python -m infra.cli``: how a stack starts its own parts, whatever is on PATH."""

from infra.cli import main

main()
