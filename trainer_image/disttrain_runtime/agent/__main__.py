"""Entry point of a worker pod: `python -m disttrain_runtime.agent`."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Never returns. PID 1 has no default action for SIGTERM, so one that comes during the imports is kept."""
    early: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: early.append(number))
    from disttrain_runtime.agent.app import Places
    from disttrain_runtime.agent.entry import run_agent

    os._exit(run_agent(os.environ, Places(), early))


if __name__ == "__main__":
    main()
