"""What to do next, from what is seen. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from disttrain.sdk.client import claim_name
from disttrain.sdk.job import Job

OPERATOR = "kubectl get pods --all-namespaces --selector app.kubernetes.io/name=disttrain"
IMAGE_TROUBLE = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"}
)


def for_job(job: Job, prog: str = "disttrain") -> list[str]:
    """Sentences with commands, the most useful first."""
    where = f" -n {job.namespace}" if job.namespace not in ("", "default") else ""
    return list(_sentences(job, f"{prog} {{}} {job.name}{where}".format))


def _sentences(job: Job, command: object) -> Iterator[str]:
    assert callable(command)
    state, ready = job.state, job.condition("WorkersReady")
    if job.succeeded:
        if where := checkpoint_place(job):
            yield f"the trained model: {where}"
        yield f"what it printed: {command('logs')}"
    elif job.failed:
        yield f"why: {command('logs')} --errors"
        yield f"when it is mended: {command('delete')} --wait, then submit it again; {_goes_on(job)}"
    elif job.suspended:
        yield f"let it go on: {command('resume')}"
    elif not job.raw.get("status"):
        yield f"nobody has looked at it yet: is the operator installed and well? {OPERATOR}"
    elif (admitted := job.condition("Admitted")) is not None and admitted.status == "False":
        yield admitted.message
    elif ready is not None and ready.status == "False" and ready.reason in IMAGE_TROUBLE:
        yield f"the image cannot be pulled: is {job.spec.get('image')!r} right, and may the node pull it? (spec.podTemplate.imagePullSecrets)"
    elif ready is not None and ready.reason == "Unschedulable":
        yield "no node has room: lower spec.resources, or free or add nodes (kubectl describe nodes)"
    elif state in ("Suspending", "Deleting"):
        yield "wait: the workers save a checkpoint first"
    else:
        yield f"watch it: {command('follow')}"
        yield f"what it prints: {command('logs')} -f"


def _goes_on(job: Job) -> str:
    kept = job.status.checkpoint
    committed = kept.last_committed if kept is not None else None
    return f"it goes on from step {committed.step}" if committed is not None else "it starts from step 0"


def checkpoint_place(job: Job) -> str:
    """`claim digits-checkpoints, digits/checkpoints/step-00000300`; empty when there is none."""
    kept = job.status.checkpoint
    committed = kept.last_committed if kept is not None else None
    if committed is None:
        return ""
    claim = claim_name(job)
    path = committed.path or f"{job.name}/checkpoints"
    return f"claim {claim}, {path}" if claim else path
