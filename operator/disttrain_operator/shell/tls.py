"""The stream's certificate, read again when it was renewed on disk (cert-manager, a changed Secret)."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
"""The kubelet itself takes about a minute to bring a changed Secret into a pod."""


class Certificates:
    """tls.crt, tls.key, ca.crt of a directory. A missing or unusable file at the start raises OSError (ssl.SSLError is one)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.ca = ""
        """PEM; given to the agents of new pods."""
        self._loaded = self._stamp()
        self._load()

    def refresh(self) -> bool:
        """Load what has changed; connections that are open stay. False: nothing new, or it cannot be used (yet)."""
        try:
            stamp = self._stamp()
            if stamp == self._loaded:
                return False
            self._load()
        except OSError as error:  # half of a rotation: the next look sees the other half
            log.warning("new certificate in %s not used: %s", self._directory, error)
            return False
        self._loaded = stamp
        log.info("new certificate loaded from %s", self._directory)
        return True

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.refresh()

    def _load(self) -> None:
        ca = (self._directory / "ca.crt").read_text()
        self.context.load_cert_chain(self._directory / "tls.crt", self._directory / "tls.key")
        self.ca = ca

    def _stamp(self) -> tuple[int, ...]:
        return tuple((self._directory / name).stat().st_mtime_ns for name in ("tls.crt", "tls.key", "ca.crt"))
