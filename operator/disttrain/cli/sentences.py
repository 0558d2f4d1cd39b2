"""A job in words: what it makes, runs, saves, survives and how it ends. Pure; the operator's own planner and manifests answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from disttrain.cli import preview, words
from disttrain_contract import paths
from disttrain_contract.env import RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_contract.strategy import ALL_REDUCE, NONE, StrategyConfig
from disttrain_operator.core.actions import CreateClaim, CreatePod, CreateService
from disttrain_operator.core.model import CleanPodPolicy, Job, Verdict
from disttrain_operator.manifests import pod, run

CLEAN = {
    CleanPodPolicy.RUNNING: "then pods that still run are removed; finished ones stay and keep their logs",
    CleanPodPolicy.ALL: "then all pods are removed, and their logs with them (the volume keeps a copy)",
    CleanPodPolicy.NONE: "then no pod is removed",
}
VERDICTS = {
    Verdict.FAIL: "the job fails at once",
    Verdict.RESTART_GROUP: "the group restarts, and the failure is charged to the budget",
    Verdict.IGNORE: "the group restarts, and nothing is charged",
}


def makes(job: Job) -> Iterator[str]:
    """The children, as the planner asks for them."""
    actions = preview.first_actions(job)
    for action in actions:
        match action:
            case CreateService():
                yield f"Service {job.name}, headless: the workers' DNS names"
            case CreateClaim(claim):
                kind = claim.storage_class or "the cluster's default StorageClass"
                yield f"PersistentVolumeClaim {claim.name}: {claim.size}, {', '.join(claim.access_modes)}, {kind}; it stays when the job is deleted"
            case _:
                pass
    indices = [action.index for action in actions if isinstance(action, CreatePod)]
    if indices:
        yield _pods(job, indices)
    if job.spec.suspend:
        yield "nothing yet: spec.suspend is true; disttrain resume starts it"
    if job.spec.claim is not None and job.spec.claim.size is None:
        yield f"no claim: {job.spec.claim.name} must be there already, writable; without it the job waits"


def _pods(job: Job, indices: list[int]) -> str:
    first, last = f"{job.name}-{indices[0]}", f"{job.name}-{indices[-1]}"
    names = first if first == last else f"{first} … {last}"
    spec = pod.pod(job, 0, 1, pod.Stream(url=""))["spec"]
    (container,) = spec["containers"]
    spare = f" ({words.plural(job.spec.standby, 'standby')} among them)" if job.spec.standby else ""
    return (
        f"{words.plural(len(indices), 'pod')} {names}{spare}: {container['image']}, {_resources(container)}, "
        f"/dev/shm {pod.shared_memory(job)}, {run.grace_seconds(job)} s to save and end"
    )


def _resources(container: Mapping[str, Any]) -> str:
    wanted = container.get("resources") or {}
    found = wanted.get("limits") or wanted.get("requests") or {}
    return ", ".join(f"{name} {amount}" for name, amount in found.items()) or "no resources asked for"


def runs(job: Job, program: str, processes: int) -> Iterator[str]:
    """What the ranks do."""
    workers, auto = job.spec.workers, job.spec.processes is None
    counted = " (auto: one per GPU, or one without GPU)" if auto else ""
    each = words.plural(processes, "process", "processes")
    yield f"{program}"
    yield f"{words.plural(workers, 'worker')} × {each} = {words.plural(workers * processes, 'rank')}{counted}"
    config = run.run_config(job)
    if config.entrypoint:
        yield "disttrain's training loop: DDP, a sampler that survives failures, checkpoints, evaluation, progress"
        yield f"strategy: {_axes(config.strategy)}; NCCL with GPUs, gloo without"
    else:
        yield f"as by torchrun --nnodes {workers} --nproc-per-node {processes}: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, PET_* are set"


def _axes(strategy: StrategyConfig) -> str:
    """How the model and the work are spread."""
    split = strategy.parallelism
    if strategy.replicas_only:
        return f"data parallel, {_synchronised(strategy)}"
    axes = [f"{split.stages} stages ({split.schedule})"] if split.stages > 1 else []
    axes += [f"{split.tensor} ranks share each layer"] if split.tensor > 1 else []
    axes += [f"parameters sharded ({split.shard})"] if split.shard != NONE else []
    return " × ".join(["data parallel", *axes])


def _synchronised(strategy: StrategyConfig) -> str:
    how, compression = strategy.synchronization, strategy.compression
    if how.method == "parameterServer":
        spread = f"on {words.plural(how.servers, 'rank')}" if how.servers else "on all ranks"
        age = f"up to {words.plural(how.max_staleness, 'step')} old" if how.max_staleness else "at every step"
        return f"parameterServer {spread}, {age}"
    if how.method != ALL_REDUCE:
        often = f"every {words.plural(how.every_steps, 'step')}" if how.every_steps else "as often as is its default"
        return f"{how.method}: replicas train alone and exchange parameters {often}"
    feedback = " with error feedback" if compression.error_feedback else ""
    compressed = f", gradients by {compression.method}{feedback}" if compression.method != NONE else ""
    buckets = f", in buckets of {how.bucket_megabytes} MB" if how.bucket_megabytes else ""
    graph = ", the graph taken as static" if how.static_graph else ""
    return f"{how.method} at every step{compressed}{buckets}{graph}"


def saves(job: Job) -> Iterator[str]:
    """Cadence, place, retention."""
    if job.spec.claim is None:
        yield _saves_nothing(job)
        return
    config = run.run_config(job)
    checkpoint, place = config.checkpoint, paths.job_dir(paths.CHECKPOINT_MOUNT, job.name)
    every = f"{checkpoint.every_steps} steps" if checkpoint.every_steps else words.length(checkpoint.every_seconds or 0)
    if config.entrypoint:
        how = "in the background" if checkpoint.asynchronous else "while training waits"
        yield f"every {every}, {how}, to {place}/{paths.CHECKPOINTS}; the newest {checkpoint.keep} stay"
        yield "a job of the same name goes on from the newest one that verifies"
    else:
        yield f"whatever the command saves itself; DISTTRAIN_JOB_DIR={place} is on the volume and outlives pods"


def _saves_nothing(job: Job) -> str:
    if _is_task(job):
        return (
            "nothing: there is no spec.checkpoint, so a failure that no rank survives starts training again from step 0"
        )
    return "nothing on a volume: there is no spec.checkpoint, so what the command writes in its pods is lost with them"


def survives(job: Job, processes: int) -> Iterator[str]:
    """Failures, as the planner decides them."""
    ranks = job.spec.workers * processes
    yield f"a pod or its node is lost: {_answer(job, preview.after_pod_loss(job), survivors=ranks - processes)}"
    if job.spec.min_workers is not None:
        yield _shrinks(job, job.spec.min_workers)
    end = preview.failures_until_the_end(job)
    code = preview.after_failure(job, FailureClass.CODE)
    budget = f"; failure {end} ends the job (spec.recovery.budget.failures: {job.spec.max_failures})"
    yield f"the program fails: {_answer(job, code, survivors=ranks - 1)}{budget if end and not code.ends else ''}"
    if _is_task(job) and ranks > 1:
        yield f"no rank is left: training goes on from {_saved(job)}"
    yield f"the program cannot be started or imported: {_answer(job, preview.after_failure(job, FailureClass.ENTRYPOINT, 64), survivors=0)}"
    for rule in job.spec.rules:
        when = f"exit code {', '.join(map(str, sorted(rule.exit_codes)))}" if rule.exit_codes else str(rule.reason)
        yield f"rule: {when}: {VERDICTS[rule.action]}"


def _shrinks(job: Job, least: int) -> str:
    alone = preview.after_pod_loss(replace(job, spec=replace(job.spec, standby=0)))
    if alone.workers == job.spec.workers:
        return f"spec.elastic: nothing to give, fewer than {job.spec.workers} workers are not allowed"
    batch = (
        "the global batch and the order of samples stay the same"
        if _is_task(job)
        else "the command must cope with another WORLD_SIZE"
    )
    return f"without a standby the group goes on with {alone.workers} workers, down to {least}, and grows when the pods are back; {batch}"


def _answer(job: Job, outcome: preview.Outcome, *, survivors: int) -> str:
    if outcome.ends:
        return "the job fails at once"
    first = "a standby takes its place, " if outcome.promotes else ""
    return f"{first}{_state(job, survivors)}; next incarnation, {'charged' if outcome.charged else 'not charged'}"


def _state(job: Job, survivors: int) -> str:
    """A task's ranks hold their state when their group breaks (decision 0009); a program that is not ours cannot."""
    if not _is_task(job):
        return "all ranks are started anew, and the command goes on from what it has saved itself"
    if survivors < 1:
        return f"no rank is left, so training goes on from {_saved(job)}"
    config = run.run_config(job)
    if not config.strategy.replicas_only:
        copies = "" if config.buddy_every_steps == 0 else f", else from copies in memory ({_copied(config)})"
        return f"the other ranks keep their processes; training goes on where replicas hold what is lost{copies}, else from {_saved(job)}"
    return "the other ranks keep their processes and hand on their state, no finished step is lost"


def _copied(config: RunConfig) -> str:
    every = config.buddy_every_steps
    return f"every {words.plural(every, 'step')}" if every else "as often as they cost less than 3 % of the time"


def _saved(job: Job) -> str:
    return "the newest checkpoint" if job.spec.claim is not None else "step 0"


def _is_task(job: Job) -> bool:
    return run.run_config(job).entrypoint is not None


def ends(job: Job) -> Iterator[str]:
    """When it is over, and what is left."""
    spec = job.spec
    yield f"succeeded when all workers end with 0; {CLEAN[spec.clean_pod_policy]}"
    for limit, what in (
        (spec.startup_deadline, "failed when it has never run within"),
        (spec.active_deadline, "failed when it has been active for"),
        (spec.ttl, "the job is deleted after its end by"),
    ):
        if limit is not None:
            yield f"{what} {words.length(limit / timedelta(seconds=1))}"
