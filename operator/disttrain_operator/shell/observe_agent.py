"""The stream's knowledge of an agent → what the planner sees."""

from __future__ import annotations

from dataclasses import replace

from disttrain_contract.messages import LEASE_SECONDS, AgentState, Report
from disttrain_operator.channel.hub import AgentView as Heard
from disttrain_operator.core.conditions import Type, is_true
from disttrain_operator.core.finish import is_finished
from disttrain_operator.core.model import AgentView, Job, Pod

REDIAL_SECONDS = LEASE_SECONDS + 4.0
"""How long agents get to dial a new leader before their silence means something."""


def agent(heard: Heard) -> AgentView | None:
    """None until its first report. Ages are brought up to now: clocks of two machines are never compared."""
    report = heard.report
    if report is None:
        return None
    if report.failure is not None:
        age = report.failure.seconds_ago + (heard.report_age or 0.0)
        report = replace(report, failure=replace(report.failure, seconds_ago=age))
    silent = 0.0 if heard.connected else heard.last_heard_age or 0.0
    return AgentView(report=report, connected=heard.connected, silent_seconds=silent)


def never_heard(job: Job, pod: Pod, leading_seconds: float) -> AgentView | None:
    """A pod that had an agent before this operator led, and whose agent has not dialled: it has been silent since. Without
    this a node that dies together with the operator on it would be waited for for ever."""
    quiet = leading_seconds - REDIAL_SECONDS
    had_agent = is_true(job.status.conditions, Type.RUNNING) or pod.uid in job.status.replacing
    if quiet <= 0 or pod.exit is not None or pod.ip is None or not had_agent:
        return None
    return AgentView(report=Report(incarnation=0, state=AgentState.IDLE), connected=False, silent_seconds=quiet)


def is_awaited(job: Job, pod: Pod) -> bool:
    """Right after this operator began to lead: an agent that will dial in a moment. Until it has, counts would say that the
    workers are away, and that would be written."""
    up = pod.ip is not None and pod.exit is None and not pod.deleting and not pod.foreign
    undisturbed = job.status.observed_generation == job.generation and not is_finished(job.status)
    return up and undisturbed and job.status.incarnation > 0
