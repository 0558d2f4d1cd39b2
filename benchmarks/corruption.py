"""Damage checkpoints at random, and see whether a damaged one is ever taken for a good one.

    make bench-corruption                                          100,000 damages, a few minutes
    python -m benchmarks.corruption --count 2000 --seed 7          the same, smaller; the tests do this

Each time the newest of two checkpoints is damaged in one way out of the list below; then the search of a restore runs
over the volume. Right is: the older one is chosen, or the newest one with exactly its own contents (a file that does not
belong there is not looked at). Wrong is: other contents, or any exception that the search does not expect.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from disttrain_runtime.checkpoint.buffers import Buffers
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import (
    Expectation,
    FileEntry,
    Fingerprint,
    ParameterShape,
    Sampling,
    decode,
    encode,
)
from disttrain_runtime.checkpoint.restore import newest
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import Facts, write

Files = dict[str, bytes]
RESULTS = Path(__file__).parent / "results"
MANIFEST, MODEL, STRUCTURE = "manifest.json", "model.safetensors", "structure.json"
OLD, NEW = 10, 20
SAMPLING = Sampling(seed=0, randomness="r", samples=100, batch_size=10)
FINGERPRINT = Fingerprint(parameters=(ParameterShape("w", "float32", (64,)),), optimizer="AdamW")
EXPECTED = Expectation(job="job", sampling=SAMPLING, fingerprint=FINGERPRINT)


class Shelf:
    """A volume with two checkpoints, the newer of which can be damaged and mended."""

    def __init__(self, job_dir: Path) -> None:
        self.volume, fence = Volume(job_dir), Fence(job_dir, Holder("uid", 1))
        self.volume.create()
        fence.claim()
        for step in (OLD, NEW):
            write(self.volume, fence, Buffers().capture(state(step)).finish(), facts(step))
        self.older, self.newer = (self._read(step) for step in (OLD, NEW))
        self.on_disk = dict(self.newer)

    def put(self, files: Files) -> None:
        """Make the newer checkpoint these files, touching only what differs."""
        folder = self.volume.path(NEW)
        for name in self.on_disk.keys() - files.keys():
            (folder / name).unlink()
        for name, data in files.items():
            if self.on_disk.get(name) != data:
                (folder / name).write_bytes(data)
        self.on_disk = dict(files)

    def _read(self, step: int) -> Files:
        return {path.name: path.read_bytes() for path in sorted(self.volume.path(step).iterdir())}


def state(step: int) -> dict[str, object]:
    """A model and an optimizer that are all `step`."""
    moments = {"exp_avg": torch.full((64,), step / 7), "step": torch.tensor(float(step))}
    return {"model": {"w": torch.full((64,), float(step))}, "optimizer": {"state": {0: moments}, "lr": 0.1}}


def facts(step: int) -> Facts:
    """What the manifest says beside."""
    return Facts(
        job="job", step=step, world_size=1, epoch=0, position=0, sampling=SAMPLING, fingerprint=FINGERPRINT
    )  # fmt: skip


Damage = Callable[[random.Random, Files, Files], None]
"""Changes the files of the newer checkpoint; the last argument is those of the older one."""


def _span(rng: random.Random, data: bytes, longest: int = 4096) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + 1 + int(rng.random() ** 3 * longest))


def _in_one(change: Callable[[random.Random, bytearray], None]) -> Damage:
    def damage(rng: random.Random, files: Files, _: Files) -> None:
        name = rng.choice(sorted(files))
        data = bytearray(files[name])
        change(rng, data)
        files[name] = bytes(data)

    return damage


def flip_bits(rng: random.Random, data: bytearray) -> None:
    """One to eight of them."""
    for _ in range(rng.randrange(1, 9)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(rng: random.Random, data: bytearray) -> None:
    """Torn: the end is missing."""
    del data[rng.randrange(len(data)) :]


def zero(rng: random.Random, data: bytearray) -> None:
    """A hole, as a power cut leaves it; up to the whole file."""
    start, end = _span(rng, bytes(data))
    data[start:end] = bytes(end - start)


def scramble(rng: random.Random, data: bytearray) -> None:
    """Somebody else's block."""
    start, end = _span(rng, bytes(data), 512)
    data[start:end] = rng.randbytes(end - start)


def cut_out(rng: random.Random, data: bytearray) -> None:
    """Bytes in the middle are missing."""
    start, end = _span(rng, bytes(data), 64)
    del data[start:end]


def repeat(rng: random.Random, data: bytearray) -> None:
    """A block was written twice."""
    start, end = _span(rng, bytes(data), 64)
    data[start:start] = data[start:end]


def grow(rng: random.Random, data: bytearray) -> None:
    """Something was appended."""
    data += rng.randbytes(rng.randrange(1, 65))


def lose_files(rng: random.Random, files: Files, _: Files) -> None:
    """Half deleted: one to all are missing."""
    for name in rng.sample(sorted(files), rng.randrange(1, len(files) + 1)):
        del files[name]


def add_files(rng: random.Random, files: Files, _: Files) -> None:
    """Files that do not belong there; harmless, for nobody looks at them."""
    for _ in range(rng.randrange(1, 4)):
        files[f"{rng.randbytes(4).hex()}.safetensors"] = rng.randbytes(rng.randrange(64))


def swap_files(rng: random.Random, files: Files, _: Files) -> None:
    """Two files have each other's name."""
    one, other = rng.sample(sorted(files), 2)
    files[one], files[other] = files[other], files[one]


def mix_steps(rng: random.Random, files: Files, older: Files) -> None:
    """Some or all of the files are those of the older checkpoint: a stale replica, a restored backup."""
    for name in rng.sample(sorted(older), rng.randrange(1, len(older) + 1)):
        files[name] = older[name]


def hostile_header(rng: random.Random, files: Files, _: Files) -> None:
    """A safetensors file that lies about itself, under a manifest that was signed anew."""
    size = rng.choice([0, 7, 8, 63, 65, 256, 257, 2**20, 2**31, 2**32 + 256, 2**53, 2**63 - 1, 2**64 - 1])
    entry: dict[str, object] = {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}
    entry[rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(
        [
            [size, size],
            [size],
            [-1, 256],
            [256, 0],
            [0, size + 1],
            "F32'",
            "../../etc/passwd",
            None,
            {},
            [[]],
            1e308,
            True,
        ]
    )
    header = json.dumps({"w": entry}).encode()
    length = rng.choice([len(header), len(header) + rng.randrange(1, 2**16), 2**62, 2**64 - 1, size])
    _sign(files, MODEL, struct.pack("<Q", length) + header + bytes(256))


def hostile_file(rng: random.Random, files: Files, _: Files) -> None:
    """A file that is something else altogether, under a manifest that was signed anew."""
    pickled = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
    deep = b'{"model":' + b'{"list":[' * rng.randrange(100, 3000)
    wrong = [pickled, b"", b"[]", b"null", b'{"model": []}', b'{"model": {"tensor": "no such"}}', b"[" * 50_000, deep]
    name = rng.choice([MODEL, STRUCTURE])
    _sign(files, name, rng.choice([*wrong, rng.randbytes(rng.randrange(1, 300))]))


def hostile_manifest(rng: random.Random, files: Files, _: Files) -> None:
    """A manifest with a right digest over wrong values."""
    body = json.loads(files[MANIFEST])
    del body["digest"]
    name = rng.choice(
        ["../escape.json", "/etc/passwd", "a/b.json", ".hidden.json", "m\0.json", "x" * 5000, "a.pkl", ""]
    )
    number = rng.choice([-1, 1.5, "1", None, True, 2**80, [1]])
    change = rng.choice(
        [
            lambda: body["files"][0].update(name=name),
            lambda: body["files"][0].update(bytes=number),
            lambda: body["files"][0].update(sha256=rng.choice(["", "0" * 63, "A" * 64, None, 5])),
            lambda: body["files"].append(dict(body["files"][0])),
            lambda: body.update(files=rng.choice([[], None, {}, "files", [[]], [{}]])),
            lambda: body.update(step=rng.choice([number, OLD, NEW + 1])),
            lambda: body.update(job=rng.choice(["another", None, 5, "JOB"])),
            lambda: body.update(format=rng.choice([0, 2, None, "1"])),
            lambda: body.update(incarnation=rng.choice([-1, None, "1", 1.5])),
            lambda: body["fingerprint"].update(parameters=rng.choice([[], None, [{}], "w"])),
            lambda: body["fingerprint"]["parameters"][0].update(shape=rng.choice([[65], None, "64", [64, 1]])),
            lambda: body["fingerprint"]["parameters"][0].update(name=rng.choice([5, None, [1], {}, "v"])),
            lambda: body["fingerprint"]["parameters"].append(
                {"name": rng.choice([5, None, [1]]), "dtype": "", "shape": []}
            ),
            lambda: body["fingerprint"].update(optimizer=rng.choice([5, None, [1], {}])),
            lambda: body["sampling"].update(samples=rng.choice([number, 101])),
            lambda: body["sampling"].update(seed=rng.choice([1, None, "0"])),
            lambda: body.pop(rng.choice(sorted(body))),
            lambda: body.update({rng.randbytes(3).hex(): 1}),
        ]
    )
    change()
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    files[MANIFEST] = json.dumps(body | {"digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest()}).encode()


DAMAGES: dict[str, Damage] = {
    "flipped bits": _in_one(flip_bits),
    "truncated": _in_one(truncate),
    "zeroed": _in_one(zero),
    "scrambled": _in_one(scramble),
    "cut out": _in_one(cut_out),
    "repeated": _in_one(repeat),
    "grown": _in_one(grow),
    "files missing": lose_files,
    "files added": add_files,
    "files swapped": swap_files,
    "steps mixed": mix_steps,
    "hostile header": hostile_header,
    "hostile file": hostile_file,
    "hostile manifest": hostile_manifest,
}


def _sign(files: Files, name: str, data: bytes) -> None:
    manifest, _ = decode(files[MANIFEST])
    entry = FileEntry(name, len(data), hashlib.sha256(data).hexdigest())
    others = tuple(e for e in manifest.files if e.name != name)
    files[name], files[MANIFEST] = data, encode(replace(manifest, files=(*others, entry)))[0]


def outcome(shelf: Shelf) -> str:
    """What the search makes of the volume: `rejected`, `unchanged`, or what went wrong."""
    try:
        found = newest(shelf.volume, EXPECTED).verified
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"[:200]
    if found is None:
        return "nothing was found, although the older one is good"
    original = shelf.older if found.manifest.step == OLD else shelf.newer
    manifest, digest = decode(original[MANIFEST])
    contents = {name: data for name, data in original.items() if name != MANIFEST}
    if (found.manifest, found.digest, dict(found.files)) != (manifest, digest, contents):
        return "ACCEPTED"
    return "rejected" if found.manifest.step == OLD else "unchanged"


def run(job_dir: Path, count: int, seed: int) -> dict[str, Counter[str]]:
    """Outcomes by kind of damage."""
    rng, shelf = random.Random(seed), Shelf(job_dir)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in DAMAGES}
    for _ in range(count):
        kind = rng.choice(list(DAMAGES))
        files = dict(shelf.newer)
        DAMAGES[kind](rng, files, shelf.older)
        shelf.put(files)
        outcomes[kind][outcome(shelf)] += 1
    shelf.put(shelf.newer)
    assert outcome(shelf) == "unchanged", "the newer one is good when nothing is wrong with it"
    return outcomes


def main() -> None:
    """Print a table, write JSON; exit 1 when one was accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder) / "job", options.count, options.seed)
    took = time.monotonic() - began
    wrong = sum(
        n for counts in outcomes.values() for what, n in counts.items() if what not in ("rejected", "unchanged")
    )
    print(f"{'damage':<18}{'tried':>8}{'rejected':>10}{'unchanged':>11}{'accepted':>10}")
    for kind, counts in outcomes.items():
        accepted = counts.total() - counts["rejected"] - counts["unchanged"]
        print(f"{kind:<18}{counts.total():>8}{counts['rejected']:>10}{counts['unchanged']:>11}{accepted:>10}")
    print(f"{options.count} damages in {took:.0f} s: {wrong} accepted or badly handled")
    RESULTS.mkdir(exist_ok=True)
    result = {
        "count": options.count,
        "seed": options.seed,
        "seconds": round(took, 1),
        "wrong": wrong,
        "outcomes": outcomes,
    }
    (RESULTS / "corruption.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
