"""Nothing that a pod says can move the cursor of who reads about it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.sdk.conftest import condition, event, job

from disttrain.sdk.job import Happening, Job, Worker
from disttrain.sdk.visible import all_visible, visible

CLEAR = "\x1b[2J\x1b]0;owned\x07"


def test_control_characters_are_shown_and_lines_and_tabs_stay() -> None:
    assert visible(f"a{CLEAR}\r\n\tb\x7f\x9b1m") == "a^[[2J^[]0;owned^G^M\n\tb^?\\x9b1m"
    assert visible("schön → 学習 ✂") == "schön → 学習 ✂"


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert not [c for c in visible(text) if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]
    assert visible(visible(text)) == visible(text)


def test_every_string_of_a_value_is_shown() -> None:
    assert all_visible({"a\x1b": ["b\x1b", 1, None, {"c": "\x1b"}]}) == {"a^[": ["b^[", 1, None, {"c": "^["}]}


def test_a_jobs_status_its_events_and_its_pods_are_safe_to_show() -> None:
    raw = job() | {
        "status": {
            "conditions": [condition("Failed", "True", "CodeError", CLEAR)],
            "recovery": {"count": 1, "last": {"cause": CLEAR, "traceback": f"Traceback:\n  {CLEAR}"}},
        }
    }
    seen = Job(raw)
    failed, last = seen.condition("Failed"), seen.status.recovery
    assert failed is not None and last is not None and last.last is not None
    waiting = {"metadata": {"name": "x"}, "status": {"reason": CLEAR}}
    told = (
        failed.message,
        last.last.cause,
        last.last.traceback,
        Happening(event(raw, CLEAR, CLEAR)).message,
        Worker(waiting).summary,
    )
    for text in told:
        assert text is not None and "^[[2J" in text and "\x1b" not in text
