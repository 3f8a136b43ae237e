"""`tessera verify`: reads the raw log and every store with plain queries and holds them against the invariants."""

from infra.verify.run import Report, Verifier
from infra.verify.several import verify_several

__all__ = ["Report", "Verifier", "verify_several"]
