"""All read models, by name."""

from typing import Final

from projections.budget import BUDGET_MODEL
from projections.clock import CLOCK_MODEL
from projections.coupon import COUPON_MODEL
from projections.model import ReadModel
from projections.order import ORDER_MODEL
from projections.template import TEMPLATE_MODEL, TEMPLATES_MODEL
from projections.wallet import WALLET_MODEL

READ_MODELS: Final[dict[str, ReadModel]] = {
    model.name: model
    for model in (WALLET_MODEL, COUPON_MODEL, TEMPLATE_MODEL, TEMPLATES_MODEL, ORDER_MODEL, BUDGET_MODEL, CLOCK_MODEL)
}
