from __future__ import annotations

import pytest

from disttrain_contract.drill import Announcement, Fault, read_announcement


def test_what_is_announced_is_read() -> None:
    told = Announcement(Fault.EVICT, 3, "mnist-1")
    assert read_announcement(told.encode()) == told


@pytest.mark.parametrize(
    "text",
    [None, "", "kill-rank", "[]", "{}", "7", '{"fault":"meteor","incarnation":1,"pod":"a"}',
     '{"fault":"evict","incarnation":"1","pod":"a"}', '{"fault":"evict","incarnation":true,"pod":"a"}',
     '{"fault":"evict","incarnation":1,"pod":null}'],
)  # fmt: skip
def test_what_anybody_else_has_written_is_no_announcement(text: str | None) -> None:
    assert read_announcement(text) is None
