"""SIGTERM is a request: it is noted here, and the training loop ends at the next step boundary."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Was this rank told to stop?

    Armed only once training runs: before that the default action ends the process at once, which loses nothing,
    while a handler could not run as long as the process waits inside the rendezvous.
    """

    def __init__(self) -> None:
        self.asked = False

    def arm(self) -> None:
        """From now on SIGTERM is a request."""
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
