"""Who is who in a pod can be read from /proc."""

from __future__ import annotations

from pathlib import Path

from tests.agent.stage import Stage, in_a_process_of_its_own

SAY = "print(open('/proc/self/comm').read(), end='')"


@in_a_process_of_its_own
async def test_the_warm_parent_and_what_is_forked_from_it_carry_their_names() -> None:
    stage = await Stage().ready()
    assert Path(f"/proc/{stage.parent}/comm").read_text() == "warm-parent\n"
    await stage.run(SAY, 12)
    await stage.run(SAY, 1, RANK="")  # it has no place yet
    assert stage.lines == {12: ["rank-12"], 1: ["spare"]} and not stage.has_said("executed")
