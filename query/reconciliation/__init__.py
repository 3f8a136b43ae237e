"""Finds the breaks between the ledgers in ClickHouse and says which of them are new, changed or settled."""

from query.reconciliation.breaks import KINDS, FactStore, Found, OpenBreakRow, find_breaks, open_breaks
from query.reconciliation.changes import commands_for

__all__ = ["KINDS", "FactStore", "Found", "OpenBreakRow", "commands_for", "find_breaks", "open_breaks"]
