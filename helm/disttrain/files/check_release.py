"""What `helm test` runs inside the operator's image. Standard library only."""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount"))
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "60"))
"""A fresh release may still be starting."""


def operator_is_ready() -> str:
    """`/readyz` says 200."""
    with urllib.request.urlopen(os.environ["HEALTH_URL"] + "/readyz", timeout=5) as answer:
        return f"/readyz: {answer.status}"


def stream_answers() -> str:
    """The stream speaks TLS with a certificate of our CA and turns a caller without a token away."""
    context = ssl.create_default_context(cafile=os.environ["STREAM_CA"])
    try:
        urllib.request.urlopen(os.environ["STREAM_URL"] + "/v1/stream", timeout=5, context=context)
    except urllib.error.HTTPError as refusal:
        if refusal.code in (400, 401, 403, 426, 503):  # 503: the replica without the Lease
            return f"stream: TLS verified, caller without token answered {refusal.code}"
        raise
    raise RuntimeError("the stream let a caller without a token in")


def api_is_served() -> str:
    """The API server knows disttrain.dev."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    scheme = os.environ.get("KUBERNETES_SCHEME", "https")
    request = urllib.request.Request(f"{scheme}://{host}:{port}/apis/disttrain.dev/v1alpha1")
    request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text().strip()}")
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")) if scheme == "https" else None
    with urllib.request.urlopen(request, timeout=5, context=context) as answer:
        served = [resource["name"] for resource in json.load(answer)["resources"]]
    if "disttrainjobs" not in served:
        raise RuntimeError(f"disttrainjobs is not among {served}: install the CRD (crds.enabled=true)")
    return "API: disttrainjobs is served"


def passes(check: Callable[[], str]) -> bool:
    """Try until it holds or patience ends; print the outcome."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            print("ok  ", check(), flush=True)
            return True
        except (OSError, RuntimeError, KeyError, ValueError) as problem:
            if time.monotonic() > deadline:
                print("FAIL", check.__name__, "-", problem, flush=True)
                return False
        time.sleep(1)


if __name__ == "__main__":
    outcomes = [passes(check) for check in (operator_is_ready, stream_answers, api_is_served)]
    sys.exit(0 if all(outcomes) else 1)
