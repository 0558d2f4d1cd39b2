"""What the chart makes."""

from __future__ import annotations

import base64
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.verification import PolicyBuilder, Store
from tests.helm.conftest import CHART, Render, of_kind, one

RunHelm = Callable[..., subprocess.CompletedProcess[str]]

ALL_ON = {
    "replicaCount": 2,
    "metrics.podMonitor.enabled": True,
    "metrics.serviceMonitor.enabled": True,
    "metrics.prometheusRule.enabled": True,
    "commonLabels": {"team": "ml"},
    "podLabels": {"tier": "control"},
    "podAnnotations": {"note": "x"},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-cluster-critical",
    "serviceAccount.annotations": {"a": "b"},
    "tls.annotations": {"a": "b"},
    "stream.annotations": {"a": "b"},
    "metrics.annotations": {"a": "b"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "proxy:1"}],
}
"""Every optional part at once."""


def test_lint_finds_nothing(run_helm: RunHelm) -> None:
    done = run_helm("lint", str(CHART), "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_can_be_packaged_and_the_package_renders_the_crd(run_helm: RunHelm, tmp_path: Path) -> None:
    assert run_helm("package", str(CHART), "--destination", str(tmp_path)).returncode == 0
    (package,) = tmp_path.glob("disttrain-*.tgz")
    done = run_helm("template", "x", str(package))
    assert "name: disttrainjobs.disttrain.dev" in done.stdout


class StrictLoader(yaml.SafeLoader):
    """Server-side apply, which Helm 4 uses, refuses what PyYAML forgives: a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        twice = [key for key, n in Counter(self.construct_object(k, deep=True) for k, _ in node.value).items() if n > 1]
        assert not twice, f"{twice} twice at line {node.start_mark.line}"
        return super().construct_mapping(node, deep=deep)


@pytest.mark.parametrize("values", [{}, ALL_ON], ids=["defaults", "everything on"])
def test_nothing_is_said_twice(
    run_helm: RunHelm, render: Render, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml, "safe_load_all", lambda text: list(yaml.load_all(text, Loader=StrictLoader)))
    objects = render(**values)
    names = Counter(
        (o["apiVersion"], o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects
    )
    assert max(names.values()) == 1
    for container in containers(objects):
        assert max(Counter(variable["name"] for variable in container["env"]).values()) == 1


def containers(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [container for pod in pod_specs(objects) for container in pod["containers"]]


def pod_specs(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    templates = [
        o["spec"]["template"]["spec"]
        for o in objects
        if "template" in o.get("spec", {}) and o["kind"] != "PrometheusRule"
    ]
    return templates + [o["spec"] for o in of_kind(objects, "Pod")]


@pytest.mark.parametrize("values", [{}, ALL_ON], ids=["defaults", "everything on"])
def test_every_pod_meets_the_restricted_standard(render: Render, values: dict[str, Any]) -> None:
    pods = pod_specs(render(**values))
    assert len(pods) == 2  # the operator and the test
    for pod in pods:
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all("hostPath" not in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            }  # fmt: skip
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["memory"]


def test_the_user_may_be_left_to_the_platform(render: Render) -> None:
    for pod in pod_specs(render(runAsUser=None)):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_the_operator_is_told_all_it_needs(render: Render) -> None:
    (container,) = one(render(), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]} == {
        "DISTTRAIN_OPERATOR_NAMESPACE": {"fieldRef": {"fieldPath": "metadata.namespace"}},
        "DISTTRAIN_OPERATOR_POD": {"fieldRef": {"fieldPath": "metadata.name"}},
        "DISTTRAIN_STREAM_URL": "wss://disttrain-stream.disttrain-system.svc:8443",
        "DISTTRAIN_STREAM_PORT": "8443",
        "DISTTRAIN_HEALTH_PORT": "8080",
        "DISTTRAIN_TLS_DIR": "/etc/disttrain/tls",
        "DISTTRAIN_WATCH_NAMESPACES": "",
        "DISTTRAIN_TRUSTED_NODES": "",
        "DISTTRAIN_LEASE_NAME": "disttrain",
        "DISTTRAIN_LOG_LEVEL": "info",
        "DISTTRAIN_LOG_FORMAT": "json",
    }
    assert container["image"] == "docker.io/disttrain/operator:0.1.0"


def test_the_image_can_be_chosen_by_tag_and_by_digest(render: Render) -> None:
    digest = "sha256:" + "a" * 64
    for values, image in [
        ({"image.tag": "dev"}, "docker.io/disttrain/operator:dev"),
        ({"image.repository": "localhost:5000/mine/operator", "image.tag": "dev"}, "localhost:5000/mine/operator:dev"),
        ({"image.tag": "dev", "image.digest": digest}, f"docker.io/disttrain/operator@{digest}"),
    ]:
        assert {container["image"] for container in containers(render(**values))} == {image}


def test_the_services_select_the_operator_and_not_the_test(render: Render) -> None:
    objects = render()
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    test_labels = one(objects, "Pod")["metadata"]["labels"]
    for service in of_kind(objects, "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert not service["spec"]["selector"].items() <= test_labels.items()
    ports = {c["name"]: c["containerPort"] for c in containers(objects)[0]["ports"]}
    assert ports == {"stream": 8443, "http": 8080}
    assert {p["targetPort"] for s in of_kind(objects, "Service") for p in s["spec"]["ports"]} == set(ports)


def decoded(objects: list[dict[str, Any]]) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in one(objects, "Secret")["data"].items()}


def test_the_certificate_is_signed_by_the_ca_and_names_the_stream(render: Render) -> None:
    files = decoded(render(clusterDomain="example.org"))
    ca, certificate = (x509.load_pem_x509_certificate(files[name]) for name in ("ca.crt", "tls.crt"))
    verifier = PolicyBuilder().store(Store([ca])).build_server_verifier
    for name in (
        "disttrain-stream.disttrain-system.svc",
        "disttrain-stream.disttrain-system.svc.example.org",
        "disttrain-stream.disttrain-system",
    ):
        verifier(x509.DNSName(name))
        assert name in certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)
    key = ca.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    hashed = certificate.signature_hash_algorithm
    assert hashed is not None
    key.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), hashed)
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days >= 3650


def test_a_secret_of_ones_own_is_mounted_and_none_is_made(render: Render) -> None:
    objects = render(**{"tls.existingSecret": "from-cert-manager"})
    assert not of_kind(objects, "Secret")
    assert {v["secret"]["secretName"] for pod in pod_specs(objects) for v in pod["volumes"] if "secret" in v} == {
        "from-cert-manager"
    }


def test_only_one_replica_has_no_disruption_budget(render: Render) -> None:
    assert not of_kind(render(replicaCount=1), "PodDisruptionBudget")
    assert one(render(), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_nothing_needs_foreign_crds_by_default(render: Render) -> None:
    assert not [o for o in render() if "monitoring.coreos.com" in o["apiVersion"]]
    assert len([o for o in render(**ALL_ON) if "monitoring.coreos.com" in o["apiVersion"]]) == 3


def test_workers_of_any_namespace_reach_the_stream(render: Render) -> None:
    (stream, http) = one(render(), "NetworkPolicy")["spec"]["ingress"]
    assert stream["ports"] == [{"port": "stream"}]
    assert {
        "namespaceSelector": {},
        "podSelector": {"matchExpressions": [{"key": "disttrain.dev/job", "operator": "Exists"}]},
    } in stream["from"]
    assert http == {"ports": [{"port": "http"}]}


def test_a_long_release_name_still_makes_valid_names(run_helm: RunHelm) -> None:
    done = run_helm("template", "a" * 53, str(CHART), "--namespace", "n" * 63)
    assert done.returncode == 0, done.stderr
    for found in yaml.safe_load_all(done.stdout):
        if found["kind"] in ("Service", "Pod"):
            assert len(found["metadata"]["name"]) <= 63


def test_the_notes_say_what_to_type_next(run_helm: RunHelm) -> None:
    done = run_helm(
        "install",
        "disttrain",
        str(CHART),
        "--dry-run=client",
        "--namespace",
        "team-a",
        "--set",
        "crds.keep=false",
        "--set",
        "watchNamespaces={a,b}",
    )
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert "helm test disttrain --namespace team-a" in notes
    assert "disttrain submit -f job.yaml" in notes
    assert "in: a, b." in notes
    assert "WARNING: crds.keep=false" in notes
