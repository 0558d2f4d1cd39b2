"""Shared by every test layer."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from dev.access import environment
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # so that stories can say `from support.worlds import …`

# No timing is asserted, not even by the way: a busy machine is no failure. And a change is judged by what it did: the same
# examples for the same code. New ones are what `make explore` looks for.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=3_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """Of the cluster under test, which is the one that the `make` commands choose."""
    path = Path(environment()["KUBECONFIG"])
    if not path.exists():
        pytest.fail(f"no cluster: {path} does not exist; run `make cluster-up` first (make test does)")
    return path


# What a shell puts into the background ignores SIGINT, and what nohup starts ignores SIGHUP. Children inherit that: stories about
# these signals would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
