"""The manifest: written once, read with suspicion."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.checkpoint.manifest import (
    Expectation,
    FileEntry,
    Fingerprint,
    ForeignError,
    Manifest,
    ParameterShape,
    RejectedError,
    Sampling,
    _digest,
    check,
    decode,
    encode,
)  # fmt: skip

SAMPLING = Sampling(seed=0, randomness="splitmix64-1", samples=1437, batch_size=96)
FINGERPRINT = Fingerprint(
    parameters=(ParameterShape("0.weight", "float32", (4, 12)), ParameterShape("0.bias", "float32", (4,))),
    optimizer="torch.optim.adamw.AdamW",
)
WIDER = ParameterShape("0.weight", "float32", (8, 12))
MANIFEST = Manifest(
    job="mnist", job_uid="u-1", step=40, incarnation=2, world_size=3, epoch=2, position=960,
    sampling=SAMPLING, fingerprint=FINGERPRINT, files=(FileEntry("model.safetensors", 208, "0" * 64), FileEntry("structure.json", 2, "1" * 64)),
)  # fmt: skip
EXPECTED = Expectation(job="mnist", sampling=SAMPLING, fingerprint=FINGERPRINT)


def forged(**changes: Any) -> bytes:
    """A manifest that somebody altered and signed anew."""
    body = json.loads(json.dumps(asdict(MANIFEST))) | changes
    return json.dumps(body | {"digest": _digest(body)}).encode()


def test_it_survives_the_trip() -> None:
    data, digest = encode(MANIFEST)
    assert decode(data) == (MANIFEST, digest)
    check(MANIFEST, EXPECTED, step=40)


def test_its_digest_covers_everything() -> None:
    data, _ = encode(MANIFEST)
    with pytest.raises(RejectedError, match="own digest"):
        decode(data.replace(b'"step": 40', b'"step": 41'))


@given(st.binary(max_size=200))
def test_garbage_is_rejected_and_raises_nothing_else(data: bytes) -> None:
    with pytest.raises(RejectedError):
        decode(data)


@given(st.integers(0, 5000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, flip: int) -> None:
    data = bytearray(encode(MANIFEST)[0])
    data[place % len(data)] ^= flip
    with suppress(RejectedError):
        assert decode(bytes(data))[0] == MANIFEST, "only white space may change unnoticed"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"files": [{"name": "../../etc/passwd", "bytes": 1, "sha256": "0" * 64}]}, "impossible file"),
        ({"files": [{"name": "a/b.safetensors", "bytes": 1, "sha256": "0" * 64}]}, "impossible file"),
        ({"files": [{"name": "model.pkl", "bytes": 1, "sha256": "0" * 64}]}, "impossible file"),
        ({"files": [{"name": "model.json", "bytes": 1, "sha256": "zz"}]}, "impossible file"),
        ({"files": [{"name": "model.json", "bytes": -1, "sha256": "0" * 64}]}, "cannot be read"),
        ({"files": [{"name": "model.json", "bytes": 1, "sha256": None}]}, "not a text"),
        ({"files": [{"name": 5, "bytes": 1, "sha256": "0" * 64}]}, "not a text"),
        ({"fingerprint": {"parameters": [{"name": [1], "dtype": "", "shape": []}], "optimizer": "o"}}, "not a text"),
        ({"fingerprint": {"parameters": [{"name": "w", "dtype": "", "shape": [{}]}], "optimizer": "o"}}, "not a whole"),
        ({"files": [{"name": "a.json", "bytes": 1, "sha256": "0" * 64}] * 2}, "twice"),
        ({"files": "model.safetensors"}, "cannot be read"),
        ({"step": "40"}, "cannot be read"),
        ({"step": True}, "cannot be read"),
        ({"epoch": 1e300}, "cannot be read"),
        ({"surprise": 1}, "cannot be read"),
        ({"fingerprint": None}, "cannot be read"),
        ({"format": 2}, "format 2, this image reads 1"),
    ],
)
def test_a_forged_manifest_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RejectedError, match=why):
        decode(forged(**changes))


def test_a_nested_bomb_is_refused() -> None:
    with pytest.raises(RejectedError):
        decode(b"[" * 100_000)


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (replace(MANIFEST, job="other"), "belongs to job 'other'"),
        (
            replace(MANIFEST, fingerprint=replace(FINGERPRINT, parameters=(WIDER, FINGERPRINT.parameters[1]))),
            r"parameter 0.weight was float32\[8, 12\] and is float32\[4, 12\]",
        ),
        (
            replace(MANIFEST, fingerprint=replace(FINGERPRINT, parameters=FINGERPRINT.parameters[:1])),
            "0.bias is only in the present model",
        ),
        (
            replace(MANIFEST, fingerprint=replace(FINGERPRINT, optimizer="torch.optim.sgd.SGD")),
            "optimizer was torch.optim.sgd.SGD",
        ),
        (replace(MANIFEST, sampling=replace(SAMPLING, batch_size=64)), "batch_size was 64 and is 96"),
        (replace(MANIFEST, sampling=replace(SAMPLING, seed=1)), "seed was 1 and is 0"),
    ],
)
def test_a_checkpoint_of_something_else_is_told_apart_from_a_damaged_one(theirs: Manifest, why: str) -> None:
    with pytest.raises(ForeignError, match=why):
        check(theirs, EXPECTED, step=40)


def test_another_world_size_job_uid_or_incarnation_is_welcome() -> None:
    check(replace(MANIFEST, world_size=64, job_uid="u-0", incarnation=9), EXPECTED, step=40)


def test_a_renamed_folder_is_noticed() -> None:
    with pytest.raises(RejectedError, match="renamed or copied"):
        check(MANIFEST, EXPECTED, step=50)
