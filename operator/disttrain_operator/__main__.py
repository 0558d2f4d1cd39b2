"""`python -m disttrain_operator`: settings from the environment, signals, exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys

from disttrain_operator.process import Operator
from disttrain_operator.settings import Settings, SettingsError
from disttrain_operator.shell import cluster, logs
from disttrain_operator.shell.clock import SteadyClock
from disttrain_operator.shell.metrics import Metrics

log = logging.getLogger("disttrain_operator")

EXIT_USAGE = 64


def main() -> int:
    """0 after SIGTERM; 1 when a part of the operator ended (the kubelet starts it again); 64 for bad settings."""
    try:
        settings = Settings.from_env(os.environ, pod=f"{socket.gethostname()}-{os.getpid()}")
    except SettingsError as error:
        print(f"disttrain-operator: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(serve(settings))
    except Exception as error:
        log.error("ended: %s: %s", type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
        return 1
    log.info("stopped")
    return 0


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    stop, started = asyncio.Event(), asyncio.Event()
    _on_signals(stop)
    metrics = Metrics()

    def count(verb: str, resource: str, code: int) -> None:
        metrics.count("api_requests", verb, resource, str(code))

    async with cluster.Cluster(await cluster.load(), count) as api:
        operator = Operator(settings, api, metrics, now=SteadyClock())
        again = asyncio.create_task(_signals_again(started, stop))
        await operator.run(stop, started)
        again.cancel()


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _signals_again(started: asyncio.Event, stop: asyncio.Event) -> None:
    """kopf takes the signals for itself when it starts; the order in which things end is ours."""
    await started.wait()
    _on_signals(stop)


if __name__ == "__main__":
    sys.exit(main())
