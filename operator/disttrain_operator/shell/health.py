"""/healthz, /readyz and /metrics. A probe fails with a sentence that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from disttrain_operator.shell.metrics import Metrics

Check = Callable[[], str | None]
"""A sentence when something is wrong."""


class HealthServer:
    """Plain HTTP, for the kubelet and Prometheus."""

    def __init__(self, metrics: Metrics, live: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        async def healthz(request: web.Request) -> web.Response:
            return _answer(live)

        async def readyz(request: web.Request) -> web.Response:
            return _answer(ready)

        async def scrape(request: web.Request) -> web.Response:
            return _metrics(metrics)

        application = web.Application()
        application.router.add_get("/healthz", healthz)
        application.router.add_get("/readyz", readyz)
        application.router.add_get("/metrics", scrape)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self, host: str | None, port: int) -> int:
        """Listen; the port, which is a free one for 0."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Close."""
        await self._runner.cleanup()


def _answer(checks: Mapping[str, Check]) -> web.Response:
    problems = [f"{name}: {problem}" for name, check in checks.items() if (problem := check()) is not None]
    return web.Response(text="\n".join(problems) + "\n" if problems else "ok\n", status=503 if problems else 200)


def _metrics(metrics: Metrics) -> web.Response:
    return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
