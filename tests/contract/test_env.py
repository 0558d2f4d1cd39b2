"""What the operator writes into a pod is exactly what the agent reads out of it."""

from __future__ import annotations

import json

import pytest

from disttrain_contract.env import PREFIX, RESERVED, RUN, CheckpointConfig, EvaluationConfig, RunConfig, WorkerEnv
from disttrain_contract.messages import Membership
from disttrain_contract.topology import rank_env

ENV = WorkerEnv(
    job="mnist",
    job_uid="u-1",
    namespace="team",
    pod_name="mnist-0",
    pod_uid="p-1",
    pod_ip="10.0.0.7",
    node_name="node-1",
    worker_index=0,
    workers=3,
    operator_url="wss://operator.system.svc:8443",
    operator_ca="-----BEGIN CERTIFICATE-----\n…\n",
    checkpoint_mount="/checkpoints",
    run=RunConfig(
        entrypoint="digits:build",
        args=("--lr", "0.1", 'with "quotes" and spaces'),
        processes_per_worker=2,
        checkpoint=CheckpointConfig(every_seconds=1.5, keep=5),
        evaluation=EvaluationConfig(every_steps=10),
    ),
)


def test_the_environment_survives_the_trip() -> None:
    assert WorkerEnv.from_env(ENV.to_env()) == ENV
    script = WorkerEnv(
        **{n: getattr(ENV, n) for n in ENV.__dataclass_fields__} | {"run": RunConfig(command=("a", "b"))}
    )
    assert WorkerEnv.from_env(script.to_env()) == script


def test_every_missing_variable_is_named_at_once() -> None:
    env = ENV.to_env()
    del env[PREFIX + "JOB"], env[RUN]
    with pytest.raises(LookupError, match="DISTTRAIN_JOB, DISTTRAIN_RUN unset"):
        WorkerEnv.from_env(env)


def test_a_run_from_another_version_is_refused_not_guessed() -> None:
    env = ENV.to_env()
    env[RUN] = json.dumps(json.loads(env[RUN]) | {"warp": 9})
    with pytest.raises(TypeError, match="warp"):
        WorkerEnv.from_env(env)


def test_whatever_a_rank_is_given_a_user_may_not_set() -> None:
    members = Membership(incarnation=1, workers=2, processes_per_worker=2, master_addr="a", master_port=1)
    assert set(rank_env(members, 0, 0, "u")) <= RESERVED
