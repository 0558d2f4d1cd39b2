"""From the container's start to its exit code: whatever happens, somebody is told why."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from disttrain_contract.env import WorkerEnv
from disttrain_contract.messages import Report
from disttrain_runtime.agent.app import App, Places
from disttrain_runtime.agent.launch import rank_command
from disttrain_runtime.agent.termination import defect, misconfigured, write_last_words
from disttrain_runtime.agent.writer import write_stdout


def run_agent(environment: Mapping[str, str], places: Places, early_signals: Sequence[int] = ()) -> int:
    """The agent's whole life; its exit code. `early_signals` arrived while it was being imported.

    The event loop is left as it is: the process ends here, and waiting for threads that hang on a dead volume or
    name server would only delay that.
    """
    try:
        worker = WorkerEnv.from_env(environment)
        if not rank_command(worker.run):
            raise LookupError("neither an entrypoint nor a command is given")
        if worker.workers != 1 and not worker.operator_url:
            raise LookupError(f"a job of {worker.workers} workers needs an operator, and none is given")
    except (LookupError, TypeError, ValueError) as error:
        return _broken(misconfigured(error), places)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(_live(worker, places, environment, early_signals))


async def _live(worker: WorkerEnv, places: Places, environment: Mapping[str, str], early: Sequence[int]) -> int:
    app = App(worker, places, environment)
    try:
        return await app.run(early)
    except Exception as error:
        app.abandon()
        return _broken(defect(error, app.report.incarnation), places)
    finally:
        app.drain()


def _broken(report: Report, places: Places) -> int:
    failure = report.failure
    if failure is None:
        raise ValueError("a broken agent says what broke")
    write_stdout("", f"[agent] {failure.message}\n{failure.traceback}".encode(errors="replace"))
    write_last_words(report, places.termination_log)
    return failure.exit_code
