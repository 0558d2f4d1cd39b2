"""The listening end: TLS, one path, and little memory for each of thousands of connections."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from contextlib import suppress

from aiohttp import web

from disttrain_contract.names import STREAM_PATH
from disttrain_operator.channel.hub import AgentHub

FIRST_REQUEST_SECONDS = 10
"""For a TLS handshake, and again for the request after it: who connects and says nothing is shown out."""
BACKLOG = 1024
"""Agents that knock in the same instant; the kernel's own limit may be lower."""


class _SmallBuffers(SSLProtocol):
    """asyncio gives every TLS connection a read buffer of 256 KiB: 292 KiB a connection were measured with it, 41 KiB
    with this one. A report has about 1 KB; a longer one takes several reads."""

    max_size = 4 * 1024


class StreamServer:
    """Serves a hub."""

    def __init__(self, hub: AgentHub, tls: ssl.SSLContext | None) -> None:
        self._hub = hub
        self._tls = tls
        application = web.Application()
        application.router.add_get(STREAM_PATH, hub.handle)
        self._runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=FIRST_REQUEST_SECONDS, shutdown_timeout=1.0
        )
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which is a free one for 0."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._protocol, host, port, backlog=BACKLOG)
        self._sweeper = loop.create_task(self._hub.run())
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """End all streams; the agents dial again, somewhere."""
        if self._listener is not None:
            self._listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        self._hub.drop_all()
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.BaseProtocol:
        """What `create_server(ssl=…)` would make, but with our buffers."""
        server = self._runner.server
        if server is None:
            raise RuntimeError("start() first")
        if self._tls is None:
            return server()
        return _SmallBuffers(
            asyncio.get_running_loop(),
            server(),
            self._tls,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=FIRST_REQUEST_SECONDS,
            ssl_shutdown_timeout=1,
        )
