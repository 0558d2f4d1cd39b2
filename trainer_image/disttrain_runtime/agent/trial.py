"""Try a job's program on this machine, without Kubernetes: `python -m disttrain_runtime.agent.trial -- python train.py`.

The same agent, alone: the same ranks, environment, logs, diagnosis and exit code as in a pod of a one-worker job.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from disttrain_contract.env import CheckpointConfig, RunConfig, WorkerEnv
from disttrain_runtime.agent.app import Places
from disttrain_runtime.agent.entry import run_agent


def trial_environment(arguments: Sequence[str]) -> dict[str, str]:
    """What the operator would give to the only worker of such a job."""
    parser = argparse.ArgumentParser(prog="python -m disttrain_runtime.agent.trial", description=__doc__)
    parser.add_argument("--entrypoint", metavar="MODULE:BUILD", help="a task; what follows -- are its arguments")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each GPU, else one")
    parser.add_argument("--volume", type=Path, metavar="DIR", help="keep checkpoints and logs in DIR/trial")
    parser.add_argument("--every-steps", type=int, default=100, metavar="N", help="checkpoint that often (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="*", metavar="-- COMMAND", help="a program, or the arguments of a task")
    options = parser.parse_args(arguments)
    if options.entrypoint is None and not options.words:
        parser.error("say what to run: a command after --, or --entrypoint")
    run = RunConfig(
        entrypoint=options.entrypoint,
        command=() if options.entrypoint else tuple(options.words),
        args=tuple(options.words) if options.entrypoint else (),
        processes_per_worker=options.processes,
        seed=options.seed,
        checkpoint=CheckpointConfig(every_steps=options.every_steps),
    )
    worker = WorkerEnv(
        job="trial",
        job_uid="trial",
        namespace="",
        pod_name="trial-0",
        pod_uid="",
        pod_ip="127.0.0.1",
        node_name="",
        worker_index=0,
        workers=1,
        operator_url="",
        checkpoint_mount=str(options.volume.resolve()) if options.volume else "",
        run=run,
    )
    return worker.to_env()


def main() -> None:
    """Never returns."""
    import sys

    environment = dict(os.environ) | trial_environment(sys.argv[1:])
    os._exit(run_agent(environment, Places()))


if __name__ == "__main__":
    main()
