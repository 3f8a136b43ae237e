"""The command line: one module per group of commands, all wired in ``app``."""

from infra.cli.app import app, main

__all__ = ["app", "main"]
