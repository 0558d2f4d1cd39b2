from __future__ import annotations

from pathlib import Path

import pytest

from disttrain_operator.settings import Settings, SettingsError

LEAST = {"DISTTRAIN_OPERATOR_NAMESPACE": "disttrain", "DISTTRAIN_STREAM_URL": "ws://localhost:1"}


def read(**more: str) -> Settings:
    return Settings.from_env(LEAST | {f"DISTTRAIN_{k}": v for k, v in more.items()}, pod="host-1")


def test_the_least_that_must_be_set() -> None:
    found = read()
    assert (found.namespace, found.pod, found.lease_name, found.tls_dir) == (
        "disttrain",
        "host-1",
        "disttrain-operator",
        None,
    )
    assert (found.stream_port, found.health_port, found.log_level, found.log_format) == (8443, 8080, "info", "json")


def test_everything_the_chart_sets() -> None:
    found = read(
        OPERATOR_POD="operator-0", STREAM_URL="wss://operator:8443", STREAM_PORT="9443", HEALTH_PORT="9080", TLS_DIR="/tls",
        WATCH_NAMESPACES="a, b,a,", TRUSTED_NODES="n1, *", LEASE_NAME="lease", LOG_LEVEL="DEBUG", LOG_FORMAT="text",
    )  # fmt: skip
    assert found.watch_namespaces == ("a", "b") and found.trusted_nodes == {"n1", "*"}
    assert (found.tls_dir, found.pod, found.lease_name) == (Path("/tls"), "operator-0", "lease")
    assert (found.stream_port, found.health_port, found.log_level, found.log_format) == (9443, 9080, "debug", "text")


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert read(OPERATOR_POD="", WATCH_NAMESPACES="", STREAM_PORT="").watch_namespaces == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [("STREAM_URL", "http://x"), ("STREAM_PORT", "https"), ("HEALTH_PORT", "70000"), ("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml")],
)  # fmt: skip
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"DISTTRAIN_{name}.*{value}"):
        read(**{name: value})


@pytest.mark.parametrize("name", LEAST)
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({k: v for k, v in LEAST.items() if k != name}, pod="host-1")


def test_a_stream_with_tls_needs_its_certificates() -> None:
    with pytest.raises(SettingsError, match="DISTTRAIN_TLS_DIR"):
        read(STREAM_URL="wss://operator:8443")
