"""Real engines on a bare machine: starts servers, hands over their addresses, and nothing else."""

from infra.embedded.engine import EngineFailed
from infra.embedded.stack import EmbeddedStack, Endpoints

__all__ = ["EmbeddedStack", "Endpoints", "EngineFailed"]
