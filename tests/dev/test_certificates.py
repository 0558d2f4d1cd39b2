import socket
import ssl
import threading

import pytest
import yaml
from cryptography import x509
from dev.cluster import addresses, render
from dev.cluster.addresses import NodeNet
from dev.cluster.certificates import ADMIN, API_SERVER, Authority, node_identity


@pytest.fixture
def pki(tmp_path):
    authority = Authority(tmp_path / "pki")
    for identity in (ADMIN, API_SERVER, node_identity(NodeNet(1))):
        authority.ensure(identity)
    return tmp_path / "pki"


def test_client_and_server_trust_each_other_and_nobody_else(pki):
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    client = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    client.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    left, right = socket.socketpair()
    seen = {}

    def serve():
        with server.wrap_socket(left, server_side=True) as connection:
            seen["peer"] = connection.getpeercert()
            connection.sendall(b"ok")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(right, server_hostname=addresses.CONTROL_PLANE) as connection:
        assert connection.recv(2) == b"ok"
    thread.join()
    subject = {key: value for part in seen["peer"]["subject"] for key, value in part}
    assert subject == {"organizationName": "system:masters", "commonName": "disttrain-admin"}


def test_a_node_is_a_node_to_the_authorizer(pki):
    certificate = x509.load_pem_x509_certificate((pki / "node-1.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=system:node:node-1,O=system:nodes"


def test_what_is_there_is_kept(pki):
    before = (pki / "admin.crt").read_bytes()
    Authority(pki).ensure(ADMIN)
    assert (pki / "admin.crt").read_bytes() == before


def test_keys_are_for_the_owner_only(pki):
    assert (pki / "admin.key").stat().st_mode & 0o077 == 0


def test_the_users_kubeconfig_points_at_no_file(pki):
    config = yaml.safe_load(render.embedded_kubeconfig(pki))
    assert str(pki) not in str(config)
    assert config["clusters"][0]["cluster"]["server"] == addresses.API
