"""The cluster's certificates and kubeconfigs, made anew with every fresh cluster."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dev.cluster import addresses
from dev.cluster.addresses import NodeNet
from dev.cluster.render import kubeconfig

# A cluster lives from `up` to `down`; nobody keeps one for a year. Yesterday: clocks differ.
LIFETIME = timedelta(days=365)
CLOCK_SKEW = timedelta(days=1)
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a certificate names, and under which addresses it may serve."""

    file: str
    user: str
    group: str = ""
    names: tuple[str, ...] = field(default=())
    ips: tuple[str, ...] = field(default=())


API_SERVER = Identity(
    "apiserver",
    "kube-apiserver",
    names=("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
           "kubernetes.default.svc.cluster.local"),
    ips=("127.0.0.1", addresses.CONTROL_PLANE, addresses.API_SERVICE),
)  # fmt: skip
ADMIN = Identity("admin", "disttrain-admin", MASTERS)
CONTROL_PLANE = (
    API_SERVER,
    ADMIN,
    Identity("apiserver-kubelet", "kube-apiserver-kubelet", MASTERS),
    Identity("controller-manager", "system:kube-controller-manager"),
    Identity("scheduler", "system:kube-scheduler"),
    Identity("proxy", "system:kube-proxy"),
)


def node_identity(net: NodeNet) -> Identity:
    """The kubelet: a client of the API server, and a server for logs and exec."""
    return Identity(net.name, f"system:node:{net.name}", "system:nodes", names=(net.name,), ips=(net.address,))


class Authority:
    """A certificate authority in a folder; makes what is missing, keeps what is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (folder / "ca.crt").exists():
            key = _new_key(folder / "ca.key")
            _write(folder / "ca.crt", _certificate(Identity("ca", "disttrain-ca"), key, key, None).public_bytes(_PEM))
        self._key = _read_key(folder / "ca.key")
        self._certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())

    def ensure(self, identity: Identity) -> None:
        """Key, certificate and kubeconfig of one identity."""
        target = self.folder / f"{identity.file}.crt"
        if target.exists():
            return
        key = _new_key(self.folder / f"{identity.file}.key")
        text = kubeconfig(
            server=addresses.API,
            authority=self.folder / "ca.crt",
            certificate=target,
            key=self.folder / f"{identity.file}.key",
        )
        _write(self.folder / f"{identity.file}.kubeconfig", text.encode())
        _write(target, _certificate(identity, key, self._key, self._certificate).public_bytes(_PEM))

    def ensure_service_account_key(self) -> None:
        """The pair that signs and verifies the tokens of pods."""
        if not (self.folder / "service-accounts.pub").exists():
            key = _new_key(self.folder / "service-accounts.key")
            public = key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            _write(self.folder / "service-accounts.pub", public)


_PEM = serialization.Encoding.PEM


def _new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    # Kubernetes reads service account keys only in the traditional form.
    _write(path, key.private_bytes(_PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))
    return key


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.replace(path)


def _certificate(
    identity: Identity,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
) -> x509.Certificate:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, identity.user)]
    if identity.group:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.group))
    subject = x509.Name(parts)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in identity.names or (identity.file,)]
        alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in identity.ips]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(signer, hashes.SHA256())
