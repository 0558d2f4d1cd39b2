"""Colours. Never the only carrier of meaning: every coloured word also says it."""

from __future__ import annotations

TONES = {"good": "green", "bad": "yellow", "": ""}
STATES = {
    "Succeeded": "green", "Running": "cyan", "Failed": "red", "Restarting": "yellow", "Suspended": "magenta", "Suspending": "magenta",
    "Pending": "dim", "Starting": "dim", "Deleting": "dim",
}  # fmt: skip
RANKS = (
    "cyan",
    "green",
    "yellow",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_green",
    "bright_yellow",
    "bright_magenta",
    "bright_blue",
)


def state_style(state: str) -> str:
    """Of the one word; what is not listed is an obstacle."""
    return STATES.get(state, "yellow")


def rank_style(rank: int | None) -> str:
    """Each rank has its own colour, the same in every run."""
    return RANKS[rank % len(RANKS)] if rank is not None else "dim"
