"""From a list of users to a distribution that runs: refused early if it would be, stored, then started."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.commands import StartDistribution
from contracts.envelope import Answer, CommandEnvelope
from infra.postgres import distributions
from infra.postgres.connections import Timeouts, transaction

# A million users are a few seconds of COPY on a busy disk.
STAGING: Final = Timeouts(statement_seconds=120.0, answer_seconds=140.0)

DryRun = Callable[[CommandEnvelope], Answer]
Execute = Callable[[CommandEnvelope], Answer]


@dataclass(frozen=True, slots=True)
class Starting:
    """How to start distributions: where lists are stored, and who decides. Blocks; raises StoreUnavailable."""

    dsn: str
    dry_run: DryRun
    execute: Execute

    def start(self, envelope: CommandEnvelope, user_ids: Sequence[str]) -> Answer:
        """Store the list and start it. The same again, under the same id or another, changes nothing.

        Raises AlreadyExists when another list of this name was stored and not started (yet), and whatever ``execute``
        raises; the list then waits for a retry.
        """
        command = envelope.command
        assert isinstance(command, StartDistribution)
        # Part of what is asked: another list under the same id is another content.
        command = command.model_copy(update={"users_sha256": distributions.digest_of(user_ids)})
        envelope = envelope._replace(command=command)
        foreseen = self.dry_run(envelope)
        if not foreseen.accepted:  # Without a million rows on the disk. It is for the engine to say so for good.
            return self.execute(envelope)
        new = distributions.NewJob(
            envelope.realm,
            command.distribution_id,
            command.template_id,
            envelope.actor,
            envelope.correlation_id,
            envelope.traceparent,
        )
        with transaction(self.dsn, STAGING, name="stage") as cursor:
            distributions.stage(cursor, new, user_ids)
        answer = self.execute(envelope)
        if not answer.accepted:
            with transaction(self.dsn, name="stage") as cursor:
                distributions.discard_unstarted(cursor, envelope.realm, command.distribution_id)
        return answer
