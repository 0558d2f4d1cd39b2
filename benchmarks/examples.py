"""What the examples learn and what it costs: each runs as its job.yaml says, under torchrun, in a network of its own.

    python -m benchmarks.examples [digits language speech]     from the repository's root, as root; minutes

Writes docs/examples/NAME.json and NAME.png. The network is a namespace with nothing but loopback, so its counter of bytes
is what the ranks said to each other, headers included.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from disttrain_contract.strategy import StrategyConfig
from disttrain_operator.manifests.strategy import strategy_config

if TYPE_CHECKING:
    from disttrain_runtime.task import Task

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "examples"
NAMES = ("digits", "language", "speech")
LINE = re.compile(r"^step (\d+)/(\d+)  (.*)$")
NUMBER = re.compile(r"(?:^|  )(\w+) (-?[\d.]+(?:e[-+]?\d+)?)(?=  |$)")


def command(spec: dict[str, Any]) -> list[str]:
    """What torchrun is told so that it does what the job would."""
    words = strategy_words(strategy_config(spec.get("strategy", {})))
    return [
        "unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(spec["workers"]),
        "-m", "disttrain_runtime.worker", "--entrypoint", spec["entrypoint"], "--strategy", json.dumps(words),
        "--evaluate-every", str(spec["evaluation"]["everySteps"]), "--", *spec["args"],
    ]  # fmt: skip


def strategy_words(config: StrategyConfig) -> dict[str, Any]:
    """For the worker's command line: only what is not the default."""
    default = asdict(StrategyConfig())
    return {name: value for name, value in asdict(config).items() if value != default[name]}


def bytes_sent(pid: int) -> int:
    """Over the loopback of that process's network, since it was made."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise LookupError("no loopback")


def heard(process: subprocess.Popen[str]) -> Iterator[dict[str, float]]:
    """Each line of progress, with the bytes that were sent up to then."""
    began = time.monotonic()
    assert process.stdout is not None
    for text in process.stdout:
        if found := LINE.match(text.rstrip()):
            rest = {name: float(value) for name, value in NUMBER.findall(found[3].replace(" samples/s", ""))}
            seconds = round(time.monotonic() - began, 1)
            yield {"step": int(found[1]), "seconds": seconds, "bytes": bytes_sent(process.pid), **rest}


def measure(name: str) -> dict[str, Any]:
    """One run to its end."""
    spec = yaml.safe_load((ROOT / "examples" / name / "job.yaml").read_text())["spec"]
    path = f"{ROOT}/trainer_image:{ROOT}/examples:{ROOT}/operator"
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    load = os.getloadavg()[0]
    with subprocess.Popen(command(spec), env=environment, stdout=subprocess.PIPE, text=True) as process:
        lines = list(heard(process))
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}")
    first, last = lines[0], lines[-2]  # the last line comes when the ranks may be gone already
    parameters, formula = expected(spec)
    sent = (last["bytes"] - first["bytes"]) / (last["step"] - first["step"])
    return {
        "workers": spec["workers"],
        "parameters": parameters,
        "bytesPerStep": round(sent),
        "formulaBytesPerStep": formula,
        "machine": f"{os.cpu_count()} cores, gloo, load {load:.0f} at the start",
        "lines": lines,
    }


def expected(spec: dict[str, Any]) -> tuple[int, int]:
    """Parameters of the task's model, and the bytes that all ranks together send in a step, by the formulas of docs/strategies."""
    sys.path.insert(0, str(ROOT / "examples"))
    from disttrain_runtime.entrypoint import build_task

    task = build_task(spec["entrypoint"], tuple(spec["args"]))
    parameters = sum(p.numel() for p in task.model.parameters())
    stages = strategy_config(spec.get("strategy", {})).parallelism.stages
    gradients = 2 * (spec["workers"] // stages - 1) * 4 * parameters
    return parameters, gradients + (2 * (stages - 1) * activations(task) if stages > 1 else 0)


def activations(task: Task) -> int:
    """Bytes of what passes through one cut of the model for a batch: of the widest, where they differ."""
    import torch

    from disttrain_runtime.pipeline.boundaries import boundaries, without_memory
    from disttrain_runtime.strategies.blocks import chain_of

    layers = without_memory([layer for _, layer in chain_of(task.model)])
    inputs = torch.stack([task.train_data[0][0]] * task.batch_size)
    between = boundaries([[layer] for layer in layers], inputs)[:-1]
    return max(sum(t.numel() * t.element_size() for t in tensors) for tensors in between)


def plot(name: str, found: dict[str, Any]) -> None:
    """Loss, and the accuracy where it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    lines = found["lines"]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    axis.plot(*zip(*losses, strict=True), color="#4477aa", linewidth=1.2, label="training loss")
    changes: list[dict[str, float]] = []
    for line in lines:  # a measurement is repeated in every line until the next one
        if "evalLoss" in line and (not changes or line["evalLoss"] != changes[-1]["evalLoss"]):
            changes.append(line)
    steps = [line["step"] for line in changes]
    axis.plot(steps, [line["evalLoss"] for line in changes], "o-", color="#ee6677", label="evaluation loss")
    axis.set(xlabel="step", ylabel="loss (nats)", ylim=(0, None))
    right = axis.twinx()
    right.plot(steps, [line["accuracy"] for line in changes], "s--", color="#228833", label="accuracy")
    right.set(ylabel="accuracy on evaluation data", ylim=(0, 1))
    handles = [*axis.get_lines(), *right.get_lines()]
    figure.legend(handles, [str(h.get_label()) for h in handles], loc="outside lower center", ncols=3, frameon=False)
    axis.set_title(f"{name}: {found['workers']} workers, {found['machine']}", fontsize=9)
    figure.savefig(DOCS / f"{name}.png", dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Measure what was named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in parser.parse_args().names:
        found = measure(name)
        last = found["lines"][-1]
        (DOCS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        plot(name, found)
        print(
            f"{name}: {found['parameters']:,} parameters, {found['bytesPerStep']:,} bytes a step over all ranks "
            f"(formula {found['formulaBytesPerStep']:,}); step {last['step']:.0f} after {last['seconds']} s: "
            + ", ".join(f"{key} {last[key]:.4g}" for key in ("loss", "evalLoss", "accuracy"))
        )


if __name__ == "__main__":
    main()
