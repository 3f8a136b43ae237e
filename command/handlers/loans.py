"""A lender's commands: coupons and budgets of this shard, for an order whose coupons lie on several."""

from command.domain import loans
from command.domain.budget import BUDGET
from command.domain.checkout import Books
from command.domain.loans import LOAN, loan_key
from command.handlers.checkouts import books_of, carry_out, coupons_of
from command.handlers.handler import Data
from command.unit_of_work import UnitOfWork
from contracts.commands import LendCoupons, TellLender


def lend(uow: UnitOfWork, command: LendCoupons) -> Data:
    """Lock and reserve, or refuse with every reason."""
    key = loan_key(command.order.order_id, command.shard)
    books = books_of(uow, command.coupon_ids)
    carry_out(uow, loans.lend(uow.load(LOAN, key), command, books, now=uow.now))
    return {"order_id": command.order.order_id, "status": uow.load(LOAN, key).status}


def obey(uow: UnitOfWork, command: TellLender) -> Data:
    """Do what the order's shard decided."""
    key = loan_key(command.order_id, command.shard)
    loan = uow.load(LOAN, key)
    coupons = coupons_of(uow, [it.coupon_id for it in loan.held])
    budget_ids = sorted({share.budget_id for it in (*loan.held, *command.told.held) for share in it.budgets})
    budgets = dict(zip(budget_ids, uow.load_all(BUDGET, budget_ids), strict=True))
    carry_out(uow, loans.obey(loan, command, Books(coupons, {}, budgets), now=uow.now))
    return {"order_id": command.order_id, "status": uow.load(LOAN, key).status}
