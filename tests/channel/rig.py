"""A hub on a real TLS socket, with tokens that are looked up in a dict, and a proxy that can freeze."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from disttrain_operator.channel import AgentHub, AgentView, PodIdentity, StreamServer

PATIENCE = 20.0
"""How long a test waits for something that must happen. Far longer than it takes, so that a busy machine passes."""
HOST = "operator.disttrain.test"
"""A name that only a story about names can look up."""
_PIECE = 512
"""Bytes at a time on a slow link: several for a handshake or a report."""


@dataclass(frozen=True)
class Certificates:
    """An authority, and a server certificate of it for loopback."""

    ca: str
    chain: Path

    def server(self) -> ssl.SSLContext:
        """TLS for the listening end."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain)
        return context

    def client(self) -> ssl.SSLContext:
        """TLS that trusts only this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.ca)
        return context


def make_certificates(where: Path, authority: str = "localhost") -> Certificates:
    """Valid for a day, for 127.0.0.1, localhost and HOST."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, authority)])
    now = datetime.datetime.now(datetime.UTC)  # noqa: TID251
    hosts = [x509.DNSName("localhost"), x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = where / "chain.pem"
    chain.write_bytes(secret + ca)
    return Certificates(ca.decode(), chain)


def pod(name: str) -> PodIdentity:
    """The pod that the token `token-of-<name>` belongs to."""
    return PodIdentity("team", name, f"uid-of-{name}")


@dataclass
class Rig:
    """A hub that listens. `leader`, `known` and `broken` may be changed at any time."""

    certificates: Certificates
    leader: bool = True
    known: Callable[[str], bool] = lambda name: True
    broken: bool = False
    reviews: int = 0
    changes: list[PodIdentity] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self._server: StreamServer | None = None

    async def start(self, port: int = 0) -> None:
        """A new hub, which knows nothing."""
        self.hub = AgentHub(authenticate=self._review, is_leader=lambda: self.leader, on_change=self._on_change)
        self._server = StreamServer(self.hub, self.certificates.server())
        self.port = await self._server.start("127.0.0.1", port)

    async def stop(self) -> None:
        """As when the operator is restarted."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def restart(self) -> None:
        """On the same port."""
        await self.stop()
        await self.start(self.port)

    def view(self, name: str) -> AgentView:
        """What the hub knows of a pod."""
        return self.hub.report_of(pod(name).uid)

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for changes until this holds."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._changed.clear()
                with suppress(TimeoutError):  # what depends on time alone changes without a call
                    async with asyncio.timeout(0.1):
                        await self._changed.wait()

    async def _review(self, token: str) -> PodIdentity | None:
        self.reviews += 1
        if self.broken:
            raise ConnectionError("the API server is away")
        name = token.removeprefix("token-of-")
        return pod(name) if token.startswith("token-of-") and self.known(name) else None

    def _on_change(self, identity: PodIdentity) -> None:
        self.changes.append(identity)
        self._changed.set()


TO_HUB, TO_AGENT = 0, 1
"""The two ways through a proxy."""


class Proxy:
    """Forwards bytes between agents and hub, until told to freeze: an end then sees a peer that is just silent."""

    def __init__(self, target: int, delay: float = 0.0) -> None:
        """`delay`: seconds that every piece of a few bytes takes, one after the other."""
        self._target, self._delay = target, delay
        self._flowing = asyncio.Event(), asyncio.Event()
        self.thaw()
        self._tasks: set[asyncio.Task[None]] = set()
        self.dialled = 0

    async def start(self) -> int:
        """Its port."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self, *ways: int) -> None:
        """Nothing passes, or nothing that way; no connection ends, and none is made."""
        for way in ways or (TO_HUB, TO_AGENT):
            self._flowing[way].clear()

    def thaw(self) -> None:
        """Everything held back passes now."""
        for way in self._flowing:
            way.set()

    async def stop(self) -> None:
        """Cut everything."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dialled += 1
        with suppress(OSError):
            for way in self._flowing:
                await way.wait()
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            for source, sink, way in zip((reader, there_reader), (there_writer, writer), self._flowing, strict=True):
                task = asyncio.create_task(self._pump(source, sink, way))
                self._tasks.add(task)
            return
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await source.read(_PIECE if self._delay else 65536):
                await asyncio.sleep(self._delay)
                await way.wait()
                sink.write(data)
                await sink.drain()
        await way.wait()  # an end is news, too
        sink.close()
