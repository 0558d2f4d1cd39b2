"""Copies beside training: a process of its own, and a store that may be away, slow, or say no."""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from disttrain_contract.messages import RemoteCopy
from disttrain_runtime.checkpoint.fence import Holder
from disttrain_runtime.checkpoint.mirror import RETRY_SECONDS, Mirror
from disttrain_runtime.checkpoint.remote_store import Store, connect
from support.remote_shelf import committed, good, new_volume
from support.shelf import Shelf

BUCKET = "checkpoints"


@pytest.fixture
def mirrors() -> Iterator[list[Mirror]]:
    """Their processes end with the story."""
    made: list[Mirror] = []
    yield made
    for mirror in made:
        mirror.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A store that speaks S3, on loopback."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of this story's own; credentials and endpoint are where a pod has them: in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = connect(f"s3://{BUCKET}")._fs
    if not bucket.exists(BUCKET):
        bucket.mkdir(BUCKET)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/default/mnist"


def mirror_of(shelf: Shelf, url: str, mirrors: list[Mirror], keep: int = 2) -> Mirror:
    mirrors.append(Mirror(url, shelf.volume.job_dir, keep))
    return mirrors[-1]


def copy(shelf: Shelf, mirror: Mirror, step: int) -> RemoteCopy:
    committed(shelf, step)
    events = mirror.offer(shelf.fence, step) + mirror.settle(60)
    return events[-1]


def last_of(mirror: Mirror) -> list[RemoteCopy]:
    """What is heard next."""
    end = time.monotonic() + 60
    while not (events := mirror.poll()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return events


def test_the_volume_is_lost_and_training_goes_on_from_the_second_tier(
    shelf: Shelf, s3: str, mirrors: list[Mirror]
) -> None:
    """Over the wire, with retention, by two processes that share nothing but the store."""
    mirror = mirror_of(shelf, s3, mirrors)
    for step in (10, 20, 30):
        event = copy(shelf, mirror, step)
        assert (event.step, event.reason, event.url) == (step, "", s3)
        assert event.digest.startswith("sha256:")
    assert good(connect(s3)) == [30, 20]
    fresh = new_volume(shelf, Holder("uid", 2))
    answer = mirror_of(fresh, s3, mirrors).fetch(fresh.fence, fresh.expected, ())
    assert (answer.step, answer.digest, answer.reason) == (30, event.digest, "")
    for file in shelf.volume.path(30).iterdir():
        assert (fresh.volume.path(30) / file.name).read_bytes() == file.read_bytes()
    assert copy(shelf, mirror, 40).reason == "RemoteFenced"
    assert good(connect(s3)) == [30, 20]


def test_a_bit_flips_in_the_store_and_the_copy_before_it_serves(shelf: Shelf, s3: str, mirrors: list[Mirror]) -> None:
    mirror = mirror_of(shelf, s3, mirrors)
    for step in (10, 20):
        copy(shelf, mirror, step)
    flip(connect(s3), "step-00000020")
    fresh = new_volume(shelf, Holder("uid", 2))
    answer = mirror_of(fresh, s3, mirrors).fetch(fresh.fence, fresh.expected, ())
    assert answer.step == 10
    assert answer.skipped == ("remote step 20: model.safetensors does not match its digest",)


def flip(store: Store, step: str) -> None:
    (name,) = [n for n in store.folders("checkpoints") if n.startswith(step)]
    path = f"checkpoints/{name}/model.safetensors"
    data = bytearray(store.get(path, 10**6) or b"")
    data[len(data) // 2] ^= 0x10
    store.put(path, bytes(data))


def test_a_bucket_that_is_not_there_is_named(shelf: Shelf, s3: str, mirrors: list[Mirror]) -> None:
    event = copy(shelf, mirror_of(shelf, "s3://nowhere/prefix", mirrors), 10)
    assert event.reason == "RemoteMissing"
    assert "s3://nowhere/prefix" in event.message


def test_a_store_that_is_away_is_said_and_tried_again(
    shelf: Shelf, s3: str, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    with monkeypatch.context() as away, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but nobody listens
        away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        mirror = Mirror(s3, shelf.volume.job_dir, 2, lambda: now)
        mirrors.append(mirror)
        committed(shelf, 10)
        assert mirror.offer(shelf.fence, 10) == []
        (event,) = last_of(mirror)
        assert event.reason == "RemoteUnreachable"
    os.kill(mirror.pid or 0, signal.SIGKILL)  # the next one has the environment of a network that works again
    assert mirror.poll() == [], "not again at once"
    now += RETRY_SECONDS
    events = []
    while not any(e.reason == "" for e in events):
        events += last_of(mirror)
        now += RETRY_SECONDS
    assert good(connect(s3)) == [10]


def test_training_does_not_wait_for_a_store_that_hangs(
    shelf: Shelf, s3: str, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections are taken and never answered. Each call returns at once, and a newer step replaces the one that waits."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        mirror = mirror_of(shelf, s3, mirrors)
        for step in (10, 20, 30):
            committed(shelf, step)
            assert mirror.offer(shelf.fence, step) == []
        assert mirror.poll() == []
        (late,) = mirror.settle(0.2)
        assert (late.step, late.reason) == (10, "RemoteSlow")
        mirror.close()


def test_of_what_is_committed_meanwhile_only_the_newest_is_copied(
    shelf: Shelf, tmp_path: Path, mirrors: list[Mirror]
) -> None:
    url = f"file://{tmp_path}/tier"
    mirror = mirror_of(shelf, url, mirrors)
    for step in (10, 20, 30):
        committed(shelf, step)
        mirror.offer(shelf.fence, step)
    assert [e.step for e in mirror.settle(60)] == [10, 30]
    assert good(connect(url)) == [30, 10]


def test_the_mirror_is_killed_in_mid_copy_and_the_next_one_copies_whole(
    shelf: Shelf, tmp_path: Path, mirrors: list[Mirror]
) -> None:
    """A fifo in the place of the file holds the copy up, so that the kill finds it half-way."""
    url = f"file://{tmp_path}/tier"
    mirror = mirror_of(shelf, url, mirrors)
    copy(shelf, mirror, 10)
    committed(shelf, 20)
    place = tmp_path / "tier" / "checkpoints" / f"step-00000020-{shelf.fence.claimant[:8]}"
    place.mkdir()
    os.mkfifo(place / "structure.json")
    mirror.offer(shelf.fence, 20)
    assert mirror.poll() == []
    os.kill(mirror.pid or 0, signal.SIGKILL)
    (event,) = last_of(mirror)
    assert (event.reason, event.step) == ("MirrorDied", 20)
    assert "SIGKILL" in event.message
    (place / "structure.json").unlink()
    assert copy(shelf, mirror, 30).reason == ""
    assert good(connect(url)) == [30, 10]
    assert not place.exists(), "what never became a checkpoint is cleared"


def test_without_a_mirror_process_training_is_told_and_goes_on(
    shelf: Shelf, tmp_path: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("Resource temporarily unavailable")

    monkeypatch.setattr("disttrain_runtime.checkpoint.helper_process.subprocess.Popen", refused)
    committed(shelf, 10)
    (event,) = mirror_of(shelf, f"file://{tmp_path}/tier", mirrors).offer(shelf.fence, 10)
    assert (event.reason, event.step) == ("MirrorDied", 10)
