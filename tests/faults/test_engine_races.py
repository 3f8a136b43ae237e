"""What has to hold at every interleaving: tried at the very moment at which it would break."""

import psycopg
import pytest

from command.ports import StoreUnavailable
from contracts.commands import NoteOrder, PauseTemplate
from infra.postgres.epoch import bump_epoch
from tests.builders import claim, hold, line, place
from tests.faults.conftest import engine_on
from tests.faults.shop import publish, sent

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("either_kind")]


# Several processes.


def test_what_was_only_looked_at_voids_a_decision_when_another_process_changed_it(shop: str) -> None:
    with engine_on(shop) as engine, engine_on(shop) as other:
        publish(engine, "strict", claimed_stay_valid=False)
        coupon_id = engine.execute(sent("1", claim("buyer", "strict"))).data["coupon_id"]
        assert other.execute(sent("2", PauseTemplate(template_id="strict"))).accepted
        # A hold writes nothing to the template's stream: no version would stand in its way.
        order = place(coupon_id, user_id="buyer", lines=(line("big", 5_000),))
        placed, held = engine.submit_many([sent("3", order), sent("4", hold())])
        assert placed.result(30).accepted
        assert held.result(30).data["status"] == "refused"


@pytest.mark.parametrize("reader_first", [False, True], ids=["engine_first", "reader_first"])
def test_after_a_restore_nothing_is_decided_on_what_was_remembered(shop: str, *, reader_first: bool) -> None:
    with engine_on(shop) as engine:
        publish(engine, "rare", stock=1)
        assert engine.execute(sent("1", claim("first", "rare"))).accepted
        assert engine.execute(sent("2", claim("second", "rare"))).code == "template_exhausted"
        restore_to_before(shop, "1", "2")
        with engine_on(shop) as other:  # It goes on where the lost history had been: versions and offsets meet.
            assert other.execute(sent("3", claim("third", "unknown"))).code == "unknown_template"
            for order_id in ("o1", "o2"):
                assert other.execute(sent(order_id, NoteOrder(order_id=order_id, status="shipped"))).accepted
        if reader_first:
            with pytest.raises(StoreUnavailable, match="restored"):
                engine.dry_run(sent("look", claim("look", "rare")))
        assert engine.execute(sent("4", claim("fourth", "rare"))).code == "ok"
        assert engine.execute(sent("5", claim("fifth", "rare"))).code == "template_exhausted"


def restore_to_before(dsn: str, claimed: str, refused: str) -> None:
    """Take back these two commands, as a restored backup would, and say so."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "DELETE FROM stored_events WHERE convert_from(state, 'UTF8')::jsonb ->> 'cmd' IN (%s, %s)",
            (claimed, f"batch:{refused}"),
        )
        admin.execute(
            "SELECT setval('stored_events_notification_id_seq', max(notification_id)) FROM stored_events"
        )  # fmt: skip
        admin.execute("DELETE FROM command_log WHERE command_id IN (%s, %s)", (claimed, refused))
        admin.execute("DELETE FROM guard_counts WHERE key LIKE '%rare%'")
    bump_epoch(dsn, 0)
