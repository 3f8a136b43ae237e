"""With whom a shard shares budgets: only with other shards, and only with known ones where several are configured."""

from collections.abc import Collection
from dataclasses import replace

from command.handlers.handler import Data, Handlers
from command.unit_of_work import UnitOfWork
from contracts.commands import ShareBudget
from contracts.refusals import NotAHolder


def sharing_among(shard: int, shards: Collection[int], handlers: Handlers) -> Handlers:
    """The handlers of one shard that knows the others. Alone it knows none: then any other number is believed."""
    usual = handlers[ShareBudget]
    others = [str(each) for each in sorted(shards) if each != shard]

    def share(uow: UnitOfWork, command: ShareBudget) -> Data:
        if command.holder == str(shard):
            raise NotAHolder(f"Shard {shard} is the budget's home and spends from it anyway.", shards=others)
        if others and command.holder not in others:
            known = ", ".join(others)
            raise NotAHolder(f"There is no shard {command.holder}; the others are {known}.", shards=others)
        return usual.handle(uow, command)

    return {**handlers, ShareBudget: replace(usual, handle=share)}
