"""A storm of random faults on the real cluster: `make bench-storm [SECONDS=600] [SEED=…]`. Does the result change by one bit?

Two jobs with the same spec train at the same time of day, one after the other: one in a storm of killed and stopped ranks,
killed and evicted pods, killed operators and full disks, one in quiet. In the end every file of the two last checkpoints
must have the same digest. Exit code 0 only then. Writes storm.json; the seed is printed, and makes the same storm again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from dev.access import REPOSITORY, environment, run
from dev.cluster.progress import say, step

from disttrain.sdk import Client, errors
from disttrain.sdk.course import Order, Result
from disttrain_contract.drill import Fault

NAMESPACE = "bench-storm"
OUT = REPOSITORY / "benchmarks" / "results" / "storm.json"
WORKERS = 3
WEIGHTS = {
    Fault.KILL_RANK: 6, Fault.STOP_RANK: 3, Fault.KILL_POD: 4, Fault.EVICT: 2, Fault.KILL_OPERATOR: 2, Fault.FILL_DISK: 1,
}  # fmt: skip
PAUSES = (0.0, 0.5, 2.0, 6.0)
"""Seconds from a recovery to the next fault: at once, too, when spares and standbys are not there again yet."""
PATIENCE = 180.0
"""The storm has failed when a job takes longer to recover."""
QUIET_PATIENCE = 3600.0
STEPS_PER_EPOCH = 15


def main() -> int:
    """0 when nothing was lost."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--steps", type=int, default=6000, help="of the training: enough to outlast the storm")
    options.add_argument("--standby", type=int, default=0)
    chosen = options.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1_000_000)
    say(
        f"seed {seed}: `python -m benchmarks.storm --seed {seed} --seconds {chosen.seconds:g} --steps {chosen.steps}` makes this storm again"
    )
    env = environment()
    os.environ["KUBECONFIG"] = env["KUBECONFIG"]
    prepare(env)
    client = Client.connect(kubeconfig=env["KUBECONFIG"], namespace=NAMESPACE)
    client.submit(manifest("stormy", chosen.steps, chosen.standby))
    faults = list(storm(client, random.Random(seed), chosen.seconds))
    stormy = finish(client, "stormy")
    client.submit(manifest("quiet", chosen.steps, 0))
    quiet = finish(client, "quiet")
    files = compare(env, chosen.steps)
    found = {"seed": seed, "seconds": chosen.seconds, "steps": chosen.steps, "faults": faults, "files": files,
             "stormy": stormy, "quiet": quiet}  # fmt: skip
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    return tell(faults, stormy, files)


def prepare(env: dict[str, str]) -> None:
    """An empty namespace: a job of the same name would go on from an earlier one."""
    run(["kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s"], env, quiet=True)
    run(["kubectl", "create", "namespace", NAMESPACE], env, quiet=True)


def manifest(name: str, steps: int, standby: int) -> dict[str, Any]:
    """The demo's job, longer."""
    return {
        "apiVersion": "disttrain.dev/v1alpha1", "kind": "DistTrainJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "image": "docker.io/disttrain/trainer:dev", "entrypoint": "digits.task:build",
            "args": ["--epochs", str(-(-steps // STEPS_PER_EPOCH))], "workers": WORKERS, "standby": standby,
            "checkpoint": {"volume": {"size": "1Gi"}, "everySteps": 50, "keep": 3},
            "recovery": {"budget": {"failures": 100, "windowSeconds": 86400}},
        },
    }  # fmt: skip


def storm(client: Client, chance: random.Random, seconds: float) -> Iterator[dict[str, Any]]:
    """Fault after fault until the time is over; what each of them did."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        fault = chance.choices(list(WEIGHTS), WEIGHTS.values())[0]
        order = Order(
            fault=fault,
            rank=chance.randrange(WORKERS) if fault in (Fault.KILL_RANK, Fault.STOP_RANK) else None,
            worker=chance.randrange(WORKERS) if fault in (Fault.KILL_POD, Fault.EVICT, Fault.FILL_DISK) else None,
            timeout=PATIENCE,
            seconds=5.0,
        )
        pause = chance.choice(PAUSES)
        with step(
            f"{fault} {'' if order.rank is None else order.rank}{'' if order.worker is None else order.worker}"
        ) as shown:
            try:
                (result,) = client.drill("stormy", order)
            except errors.DisttrainError as problem:
                shown.note = f"could not be made: {problem}"
                yield {"fault": fault, "made": False, "why": str(problem)}
                continue
            shown.note = _note(result)
            yield {
                "fault": fault, "made": True, "where": result.where, "step": result.step, "class": result.failure_class,
                "recovered": result.recovered, "seconds": result.recover_seconds, "source": result.source,
                "lost_steps": result.lost_steps,
            }  # fmt: skip
            if not result.recovered:
                raise SystemExit(f"the job did not recover from {fault} in {PATIENCE:g} s")
        time.sleep(pause)


def _note(result: Result) -> str:
    seconds = "" if result.recover_seconds is None else f"{result.recover_seconds:.2f} s"
    return " ".join(filter(None, (result.where, seconds, result.source or "")))


def finish(client: Client, name: str) -> dict[str, Any]:
    """Wait for the end; what the status says then."""
    with step(f"{name}: the rest in quiet") as shown:
        job = client.wait(name, until=lambda j: j.finished, timeout=QUIET_PATIENCE)
        if job is None or not job.succeeded:
            raise SystemExit(f"{name} did not succeed: {job.state if job else 'it is gone'}")
        shown.note = f"step {job.status.progress.step if job.status.progress else '?'}"
    return job.status.model_dump(mode="json", by_alias=True, exclude_none=True)


READER = """
import json, pathlib
for job in ("stormy", "quiet"):
    found = pathlib.Path("/" + job, job, "checkpoints").glob("step-*/manifest.json")
    print(json.dumps({f["name"]: f["sha256"] for f in json.loads(max(found).read_text())["files"]}))
"""


def compare(env: dict[str, str], steps: int) -> dict[str, dict[str, str]]:
    """The digests of both last checkpoints, read by a pod that mounts both volumes."""
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "reader", "image": "docker.io/disttrain/trainer:dev", "command": ["python", "-c", READER],
                "volumeMounts": [{"name": n, "mountPath": f"/{n}", "readOnly": True} for n in ("stormy", "quiet")],
            }],
            "volumes": [
                {"name": n, "persistentVolumeClaim": {"claimName": f"{n}-checkpoints"}} for n in ("stormy", "quiet")
            ],
        },
    }  # fmt: skip
    subprocess.run(
        ["kubectl", "apply", "-f", "-"], env=env, input=json.dumps(pod), text=True, check=True, capture_output=True
    )
    kubectl = ["kubectl", "--namespace", NAMESPACE]
    subprocess.run(
        [*kubectl, "wait", "pod/reader", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s"],
        env=env, check=True, capture_output=True,
    )  # fmt: skip
    said = subprocess.run([*kubectl, "logs", "reader"], env=env, check=True, capture_output=True, text=True).stdout
    stormy, quiet = (json.loads(line) for line in said.splitlines())
    return {"stormy": stormy, "quiet": quiet}


def tell(faults: list[dict[str, Any]], stormy: dict[str, Any], files: dict[str, dict[str, str]]) -> int:
    """The table, and the verdict."""
    made = [f for f in faults if f["made"]]
    for fault, count in sorted(Counter(str(f["fault"]) for f in made).items()):
        times = [f["seconds"] for f in made if f["fault"] == fault and f["seconds"] is not None]
        say(
            f"  {fault:14} {count:3}"
            + (f"   median {statistics.median(times):.2f} s, longest {max(times):.2f} s" if times else "")
        )
    same = files["stormy"] == files["quiet"]
    say(f"{len(made)} faults, {stormy['recovery']['count']} recoveries, goodput {stormy['goodput']['ratio']:.2f}")
    say("every file of the last checkpoint has the same digest" if same else f"THE RESULT DIFFERS: {files}")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
