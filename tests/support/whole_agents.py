"""Whole agents with real ranks, and the hub that tells them what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.agent.harness import AgentProcess, children
from tests.channel.rig import Rig, pod

from disttrain_contract.messages import Assignment, Membership, Report
from support.gloo_ranks import free_port

Start = Callable[..., AgentProcess]
"""An agent, started; see `start` in tests/distributed/conftest.py."""
UID = pod("a").uid


def rank_processes(agent: AgentProcess) -> list[int]:
    """Their process numbers, in the order of their ranks: they were forked one after the other."""
    return sorted(p for p in children(agent.pid) if b"warm_parent" not in Path(f"/proc/{p}/cmdline").read_bytes())


def dial(start: Start, rig: Rig, *args: str) -> AgentProcess:
    return start("--steps=60", "--pause=0.01", *args, url=f"wss://localhost:{rig.port}", ca=rig.certificates.ca)


def assignment(incarnation: int) -> Assignment:
    """Every group meets at a port of its own."""
    members = Membership(
        incarnation=incarnation, workers=1, processes_per_worker=3, master_addr="127.0.0.1", master_port=free_port()
    )
    return Assignment(job_uid="job-uid", incarnation=incarnation, membership=members)


def said(rig: Rig, incarnation: int) -> Report | None:
    report = rig.view("a").report
    return report if report is not None and report.incarnation == incarnation else None
