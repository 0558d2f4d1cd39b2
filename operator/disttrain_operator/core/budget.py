"""How many failures a job may have: they age out of a window, and a verified later step forgives them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from disttrain_contract.failures import FailureClass
from disttrain_operator.core.failure import Found
from disttrain_operator.core.model import Spec, Status

SAME_STEP_LIMIT = 3
"""A program that breaks at the same step in the same words this often does so by itself: trying again costs time and GPUs."""


@dataclass(frozen=True, slots=True)
class Account:
    """The charges that count, and how often in a row the same thing has happened."""

    charges: tuple[datetime, ...]
    verified_step: int
    """Newest committed step at the last charge: a later one refills the budget."""
    repeats: int


def charge(spec: Spec, status: Status, found: Found, step: int | None, *, charged: bool, now: datetime) -> Account:
    """The account after this failure."""
    committed = status.checkpoint.step if status.checkpoint is not None else 0
    kept = status.charges
    if spec.refill_on_progress and committed > status.charged_step:
        kept = ()
    if spec.budget_window is not None:
        kept = tuple(at for at in kept if now - at < spec.budget_window)
    return Account((*kept, now) if charged else kept, committed, _repeats(status, found, step))


_REPEATABLE = frozenset({FailureClass.CODE, FailureClass.NON_FINITE})
"""A step is a function of the state, the data and the seed: the same again gives the same."""


def _repeats(status: Status, found: Found, step: int | None) -> int:
    """1 for something new. Only what a program does at a known step: anything else may be bad luck twice."""
    last = status.last_recovery
    if last is None or step is None or found.failure_class not in _REPEATABLE:
        return 1
    same = (
        last.failure_class is found.failure_class
        and last.step == step
        and last.cause == found.message[: len(last.cause)]
    )
    return status.repeats + 1 if same else 1


def stuck(account: Account, step: int | None, found: Found) -> str | None:
    """A sentence when trying again cannot help."""
    if account.repeats < SAME_STEP_LIMIT or step is None:
        return None
    return f"failed {account.repeats} times at step {step} with the same error, so trying again cannot help: {found.message}"


def refill(spec: Spec, status: Status) -> tuple[datetime, ...]:
    """The charges that still count now that training has gone on."""
    committed = status.checkpoint.step if status.checkpoint is not None else 0
    forgiven = spec.refill_on_progress and committed > status.charged_step
    return () if forgiven else status.charges
