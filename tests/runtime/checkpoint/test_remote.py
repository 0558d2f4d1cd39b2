"""The second tier: whole, verified, fenced, or not there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.checkpoint import remote_claim
from disttrain_runtime.checkpoint.durable import write_file
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import RejectedError
from disttrain_runtime.checkpoint.remote import Remote
from disttrain_runtime.checkpoint.remote_claim import Claim, believed, folder_name
from disttrain_runtime.checkpoint.remote_store import Store, StoreError, connect, explained
from disttrain_runtime.checkpoint.volume import Folder
from disttrain_runtime.errors import FencedError
from support.remote_shelf import committed, fence_of, good, memory_store, new_volume
from support.shelf import Shelf

KEEP = 3


@pytest.fixture
def store() -> Store:
    return memory_store()


def copied(shelf: Shelf, store: Store, *steps: int, keep: int = KEEP) -> Remote:
    """These steps are committed and copied, one after the other."""
    remote = Remote(store, shelf.fence)
    for step in steps:
        committed(shelf, step)
        remote.copy(shelf.volume, step, keep)
    return remote


def fetched(shelf: Shelf, store: Store, holder: Holder) -> tuple[Shelf, Any]:
    """What a new incarnation with an empty volume gets."""
    fresh = new_volume(shelf, holder)
    return fresh, Remote(store, fresh.fence).fetch(fresh.volume, fresh.expected, ())


def test_what_was_copied_comes_back_byte_by_byte(shelf: Shelf, store: Store) -> None:
    copied(shelf, store, 10, 20)
    fresh, got = fetched(shelf, store, Holder("uid", 2))
    assert (got.step, got.skipped) == (20, ())
    for file in shelf.volume.path(20).iterdir():
        assert (fresh.volume.path(20) / file.name).read_bytes() == file.read_bytes()


def test_a_local_folder_does_as_well(shelf: Shelf, tmp_path: Path) -> None:
    store = connect(f"file://{tmp_path}/second/tier")
    copied(shelf, store, 10)
    assert fetched(shelf, store, Holder("uid", 2))[1].step == 10


def test_an_empty_store_has_nothing_and_that_is_no_error(shelf: Shelf, store: Store) -> None:
    got = fetched(shelf, store, Holder("uid", 1))[1]
    assert (got.name, got.skipped) == ("", ())


def test_a_copy_that_is_there_is_not_made_again(shelf: Shelf, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = copied(shelf, store, 10)
    monkeypatch.setattr(store, "write", lambda *_: pytest.fail("copied twice"))
    remote.copy(shelf.volume, 10, KEEP)
    Remote(store, fence_of(shelf, Holder("uid", 2))).copy(shelf.volume, 10, KEEP)


def test_retention_keeps_as_many_as_on_the_volume_and_the_newest_always(shelf: Shelf, store: Store) -> None:
    remote = copied(shelf, store, 10, 20, 30, 40, keep=2)
    assert good(store) == [40, 30]
    committed(shelf, 50)
    remote.copy(shelf.volume, 50, 1)
    assert good(store) == [50]


@pytest.mark.parametrize("at", range(5))
def test_a_copy_that_breaks_off_is_none_and_the_next_one_is_whole(
    shelf: Shelf, store: Store, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fails at its n-th write; what was there before stays, and is what a restore gets."""
    remote = copied(shelf, store, 10)
    committed(shelf, 20)
    with monkeypatch.context() as patch:
        break_at(patch, store, at)
        if at < 3:  # two files and the manifest
            with pytest.raises(StoreError, match="away"):
                remote.copy(shelf.volume, 20, KEEP)
            assert good(store) == [10]
        else:
            remote.copy(shelf.volume, 20, KEEP)
    remote.copy(shelf.volume, 20, KEEP)
    assert good(store) == [20, 10]
    assert fetched(shelf, store, Holder("uid", 2))[1].step == 20


def break_at(patch: pytest.MonkeyPatch, store: Store, at: int) -> None:
    calls = iter(range(1000))
    for name in ("write", "put"):
        patch.setattr(store, name, broken(getattr(store, name), calls, at))


def broken(call: Callable[..., None], calls: Any, at: int) -> Callable[..., None]:
    def write(path: str, data: Any) -> None:
        if next(calls) == at:
            if not isinstance(data, bytes):  # half of a large file arrives
                call(path, [next(iter(data))[:100]])
            raise StoreError("RemoteUnreachable", "the store is away")
        call(path, data)

    return write


@pytest.mark.parametrize("file", ["manifest.json", "structure.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "longer"])
def test_a_damaged_copy_is_passed_over(shelf: Shelf, store: Store, file: str, damage: str) -> None:
    copied(shelf, store, 10, 20)
    path = f"checkpoints/{folder_name(20, shelf.fence.claimant)}/{file}"
    whole = store.get(path, 10**6) or b""
    middle = len(whole) // 2
    if damage == "missing":
        store._fs.rm_file(store._path(path))
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        store.put(path, {"flip": flipped, "cut": whole[:middle], "empty": b"", "longer": whole + b" x"}[damage])
    fresh, got = fetched(shelf, store, Holder("uid", 2))
    assert got.step == 10
    assert fresh.volume.steps() == (10,), "nothing of the damaged one is left on the volume"
    assert len(got.skipped) == (0 if (file, damage) == ("manifest.json", "missing") else 1)


def test_a_file_that_the_store_changes_is_not_committed(
    shelf: Shelf, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(shelf, store, 10)
    committed(shelf, 20)
    honest = store.read
    monkeypatch.setattr(store, "read", lambda path: (bytes(len(piece)) for piece in honest(path)))
    with pytest.raises(RejectedError, match="came back from the store changed"):
        Remote(store, shelf.fence).copy(shelf.volume, 20, KEEP)
    assert good(store) == [10]


def test_a_damaged_checkpoint_on_the_volume_is_not_copied(shelf: Shelf, store: Store) -> None:
    remote = copied(shelf, store, 10)
    target = committed(shelf, 20) / "model.safetensors"
    target.write_bytes(b"!" + target.read_bytes()[1:])
    with pytest.raises(RejectedError, match="on the volume does not match its digest"):
        remote.copy(shelf.volume, 20, KEEP)
    assert good(store) == [10]


def test_the_source_may_be_deleted_while_it_is_copied(
    shelf: Shelf, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(shelf, 20)
    honest = store.write

    def write(path: str, pieces: Any) -> None:
        shelf.volume.try_discard(shelf.volume.path(20))
        honest(path, pieces)

    monkeypatch.setattr(store, "write", write)
    Remote(store, shelf.fence).copy(shelf.volume, 20, KEEP)
    assert fetched(shelf, store, Holder("uid", 2))[1].step == 20


def test_an_old_incarnation_cannot_copy_any_more(shelf: Shelf, store: Store) -> None:
    old = copied(shelf, store, 10)
    fetched(shelf, store, Holder("uid", 2))
    committed(shelf, 20)
    with pytest.raises(FencedError, match="belong to incarnation 2"):
        old.copy(shelf.volume, 20, KEEP)
    assert good(store) == [10]


def test_a_copy_that_is_overtaken_in_the_middle_is_not_committed(
    shelf: Shelf, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = copied(shelf, store, 10)
    committed(shelf, 20)
    honest = store.write

    def write(path: str, pieces: Any) -> None:
        honest(path, pieces)
        monkeypatch.setattr(store, "write", honest)
        fetched(shelf, store, Holder("uid", 2))

    monkeypatch.setattr(store, "write", write)
    with pytest.raises(FencedError):
        old.copy(shelf.volume, 20, KEEP)
    assert good(store) == [10]


def test_a_clean_up_that_is_overtaken_removes_nothing_any_more(
    shelf: Shelf, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next incarnation found the newest copy damaged, took an older one, and made one of its own."""
    old = copied(shelf, store, 10, 30)
    honest = store.folders

    def folders(path: str) -> Any:
        monkeypatch.setattr(store, "folders", honest)
        store.put(f"checkpoints/{folder_name(30, shelf.fence.claimant)}/model.safetensors", b"damaged")
        fresh, got = fetched(shelf, store, Holder("uid", 2))
        assert got.step == 10
        committed(fresh, 20)
        Remote(store, fresh.fence).copy(fresh.volume, 20, KEEP)
        return honest(path)

    monkeypatch.setattr(store, "folders", folders)
    old._retire(old.claim(), 30, keep=1)
    assert good(store) == [30, 20, 10]


def test_a_manifest_that_an_old_incarnation_writes_late_is_not_believed(shelf: Shelf, store: Store) -> None:
    """The one moment that no check can close: it looked, was overtaken, and wrote. Its folder carries its own mark."""
    old, seen = Remote(store, shelf.fence), committed(shelf, 500)
    copied(shelf, store, 10)
    new, got = fetched(shelf, store, Holder("uid", 2))
    place = folder_name(500, shelf.fence.claimant)
    for file in sorted(seen.iterdir(), key=lambda f: f.name == "manifest.json"):
        store.put(f"checkpoints/{place}/{file.name}", file.read_bytes())
    assert old is not None and got.step == 10
    assert fetched(shelf, store, Holder("uid", 3))[1].step == 10
    committed(new, 20)
    Remote(store, fence_of(new, Holder("uid", 4))).copy(new.volume, 20, KEEP)
    assert good(store) == [20, 10], "the holder clears what does not count"


def test_a_survivor_goes_on_under_its_next_number(shelf: Shelf, store: Store) -> None:
    copied(shelf, store, 10)
    shelf.fence = shelf.fence.renewed(Holder("uid", 5))
    copied(shelf, store, 20)
    assert good(store) == [20, 10]
    with pytest.raises(FencedError):
        Remote(store, fence_of(shelf, Holder("uid", 4))).claim()


def test_a_job_made_again_goes_on_from_the_copies_of_the_deleted_one(shelf: Shelf, store: Store) -> None:
    copied(shelf, store, 10)
    shelf.fence = shelf.fence.renewed(Holder("uid", 7))
    copied(shelf, store, 20)
    assert fetched(shelf, store, Holder("another", 1))[1].step == 20


def test_a_damaged_claim_hides_no_copy(shelf: Shelf, store: Store) -> None:
    copied(shelf, store, 10, 20)
    store.put("fence.json", (store.get("fence.json", 10**6) or b"").replace(b"uid", b"uix"))
    assert fetched(shelf, store, Holder("uid", 2))[1].step == 20


def test_a_copy_of_another_task_is_named_and_not_loaded(shelf: Shelf, store: Store) -> None:
    copied(shelf, store, 10)
    fresh = new_volume(shelf, Holder("uid", 2))
    other = replace(fresh.expected, sampling=replace(fresh.expected.sampling, seed=9))
    got = Remote(store, fresh.fence).fetch(fresh.volume, other, ())
    assert got.name == ""
    assert "seed was 0 and is 9" in got.foreign[0]
    assert fresh.volume.steps() == ()


def test_a_full_volume_is_the_volumes_error(shelf: Shelf, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(shelf, store, 10)

    def full(path: Path, parts: Any) -> tuple[int, str]:
        if path.name == "model.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_file(path, parts)

    monkeypatch.setattr("disttrain_runtime.checkpoint.remote.write_file", full)
    fresh = new_volume(shelf, Holder("uid", 2))
    with pytest.raises(OSError, match="No space"):
        Remote(store, fresh.fence).fetch(fresh.volume, fresh.expected, ())
    assert list(fresh.volume.checkpoints.iterdir()) == []


def test_only_plain_stores_are_opened() -> None:
    with pytest.raises(StoreError, match="not reference"):
        connect("reference://somewhere")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError("Forbidden"), "RemoteDenied"),
        (type("NoCredentialsError", (Exception,), {})("none"), "RemoteDenied"),
        (FileNotFoundError("The specified bucket does not exist"), "RemoteMissing"),
        (type("EndpointConnectionError", (Exception,), {})("no"), "RemoteUnreachable"),
        (TimeoutError(), "RemoteUnreachable"),
        (ImportError("Install gcsfs"), "RemoteUnsupported"),
        (OSError(errno.ENOSPC, "full"), "RemoteFull"),
        (ValueError("odd"), "RemoteFailed"),
    ],
)
def test_an_error_says_who_must_act(error: Exception, reason: str) -> None:
    found = explained(error, "s3://bucket/prefix")
    assert found.reason == reason
    assert "s3://bucket/prefix" in str(found)


NAMES = st.lists(st.builds(folder_name, st.integers(0, 10**9), st.sampled_from(["a" * 32, "b" * 32])), unique=True)


@given(names=NAMES, accepted=st.data())
def test_only_the_owners_and_what_it_found_counts(names: list[str], accepted: st.DataObject) -> None:
    found = tuple(accepted.draw(st.lists(st.sampled_from(names), unique=True))) if names else ()
    claim = Claim(Holder("uid", 3), "a" * 32, found)
    assert set(believed(names, claim)) == {n for n in names if n in found or n.endswith("a" * 8)}
    assert remote_claim.decode(remote_claim.encode(claim)) == claim


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_claim_with_a_flipped_bit_is_none(at: int, bit: int) -> None:
    data = bytearray(remote_claim.encode(Claim(Holder("uid", 3), "a" * 32, (folder_name(7, "b" * 32),))))
    data[at % len(data)] ^= 1 << bit
    assert remote_claim.decode(bytes(data)) is None


def test_open_files_of_a_folder_outlive_it(shelf: Shelf) -> None:
    path = committed(shelf, 10)
    with Folder(path) as folder, folder.opened(["structure.json"]) as (file,):
        shelf.volume.discard(path)
        assert file.read() == b"{}"


def test_a_fence_of_the_volume_is_respected_by_a_fetch(shelf: Shelf, store: Store) -> None:
    copied(shelf, store, 10)
    fresh = new_volume(shelf, Holder("uid", 2))
    remote = Remote(store, fresh.fence)
    remote.claim()
    Fence(fresh.volume.job_dir, Holder("uid", 3)).claim()
    with pytest.raises(FencedError):
        remote.fetch(fresh.volume, fresh.expected, ())
    assert fresh.volume.steps() == ()
