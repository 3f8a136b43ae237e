"""Several shards verified as one system: each by itself, then all against each other."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from contracts.placement import Placement
from infra.verify.run import Report, Verifier
from query.verify.between_shards import ShardView, check_crossing, check_leases, check_places
from query.verify.raw import Violation


def verify_several(verifiers: Mapping[int, Verifier], placement: Placement) -> Report:
    """Check every shard and what they have with each other. Raises as :meth:`Verifier.run` does.

    Each violation names its shard: of those between shards, the lender's or the holder's.
    """
    reports = {shard: verifier.run() for shard, verifier in verifiers.items()}
    # Whatever shows in one look only was under way: the second one begins after the first is over.
    first, second = ([*_between({n: each.look() for n, each in verifiers.items()}, placement)] for _ in range(2))
    again = set(second)
    alone = (replace(it, shard=shard) for shard, report in reports.items() for it in report.violations)
    return Report(
        events=sum(report.events for report in reports.values()),
        commands=sum(report.commands for report in reports.values()),
        compared=tuple(f"{name} of shard {n}" for n, report in reports.items() for name in report.compared),
        not_compared=tuple(f"{name} of shard {n}" for n, report in reports.items() for name in report.not_compared),
        violations=(*alone, *(it for it in first if it in again)),
        shards={shard: report.events for shard, report in reports.items()},
    )


def _between(shards: Mapping[int, ShardView], placement: Placement) -> Iterator[Violation]:
    for shard, view in shards.items():
        yield from check_places(shard, view.books, placement)
        holders = {str(other): each.books for other, each in shards.items() if other != shard}
        yield from (replace(it, shard=shard) for it in check_leases(view.books, holders))
    yield from check_crossing(shards, placement)
