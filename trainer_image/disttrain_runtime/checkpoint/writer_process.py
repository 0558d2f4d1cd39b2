"""The rank's end of its writer process. See `writer_main`."""

from __future__ import annotations

from typing_extensions import override

from disttrain_contract.messages import RankBody, decode_rank_message
from disttrain_runtime.checkpoint.helper_process import HelperDiedError as WriterDiedError
from disttrain_runtime.checkpoint.helper_process import HelperProcess
from disttrain_runtime.checkpoint.save_request import SaveRequest

PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from disttrain_runtime.checkpoint.writer_main import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
"""Run isolated (-I) and without site packages (-S): nothing of the user's is imported, and half the start is saved."""


class WriterProcess(HelperProcess):
    """Takes requests to save."""

    task = "writes checkpoints"

    @override
    def command(self) -> list[str]:
        return ["-I", "-S", "-c", PROGRAM]

    def ask(self, request: SaveRequest) -> None:
        """Raises WriterDiedError or OSError when it cannot be asked."""
        self.tell(request.send)

    def answer(self) -> RankBody:
        """Wait for it. Raises WriterDiedError."""
        return decode_rank_message(self.line())[1]


__all__ = ["PROGRAM", "WriterDiedError", "WriterProcess"]
