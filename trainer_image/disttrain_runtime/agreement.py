"""What all ranks do at a meeting: the largest of what each of them wishes, in one small exchange.

On a link with a long round trip such an exchange takes as long as that of the gradients. So where steps are short it is begun before
the step whose end it is about, and rides beside it. What a rank learns during that step is then heard one step later: a
matter of seconds, which is why steps that take long ask behind the step.
"""

from __future__ import annotations

from dataclasses import dataclass

EARLY_SECONDS = 2.0
"""Steps up to this long are asked about before they are made: a stop costs two of them, well within any grace period. What the step
itself takes counts, not the wait for the answer behind it: asking beside it is to save just that."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """One rank's, or what was agreed. Only rank 0 wishes for more than to stop: the clock that counts is its own."""

    stop: int = 0
    """One more than the rank that was told to."""
    save: bool = False
    report: bool = False
    check: bool = False
    """That replicas are equal and finite."""
    copy: bool = False
    """A part of a split model, to a buddy."""
    early: bool = False
    """The next exchange is to be begun before its step."""

    def row(self) -> list[int]:
        """As numbers, of which the largest counts."""
        return [int(getattr(self, wish)) for wish in self.__slots__]  # a twelfth of what dataclasses.astuple takes

    @classmethod
    def read(cls, row: list[int]) -> Wishes:
        """The inverse."""
        stop, *others = row
        return cls(stop, *map(bool, others))
