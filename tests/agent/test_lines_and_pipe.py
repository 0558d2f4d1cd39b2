"""Bytes from a rank: cut into lines, remembered, read as messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract.messages import MAX_MESSAGE_BYTES, Progress, RankEvent, encode_rank_message
from disttrain_runtime.agent.lines import LineBuffer, Tail
from disttrain_runtime.agent.pipe import RankPipe

CHUNKS = st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"a\nb", b"\n\n"]), max_size=20)
ONE = encode_rank_message(RankEvent.PROGRESS, Progress(step=1))
TWO = encode_rank_message(RankEvent.PROGRESS, Progress(step=2))


def steps(messages: list[tuple[RankEvent, object]]) -> list[int]:
    return [body.step for _, body in messages if isinstance(body, Progress)]


@given(CHUNKS)
def test_lines_are_whole_however_they_arrive(chunks: list[bytes]) -> None:
    buffer = LineBuffer()
    lines = [line for chunk in chunks for line in buffer.feed(chunk)]
    *expected, rest = b"".join(chunks).split(b"\n")
    assert lines == expected and buffer.flush() == ([rest] if rest else []) and buffer.flush() == []


@given(CHUNKS)
def test_long_lines_go_out_in_pieces_and_nothing_is_lost(chunks: list[bytes]) -> None:
    buffer = LineBuffer(limit=4)
    pieces = [piece for chunk in chunks for piece in buffer.feed(chunk)] + buffer.flush()
    assert b"".join(pieces) == b"".join(chunks).replace(b"\n", b"") and all(len(p) <= 4 for p in pieces)


@given(st.lists(st.binary(max_size=30)))
def test_a_tail_is_the_end_of_everything(chunks: list[bytes]) -> None:
    tail = Tail(8)
    for chunk in chunks:
        tail.feed(chunk)
    assert tail.text() == b"".join(chunks)[-8:].decode("utf-8", "replace")


@given(st.integers(1, 40))
def test_messages_are_read_however_they_arrive(size: int) -> None:
    pipe, data = RankPipe(), ONE + b"\n" + TWO
    found = [m for i in range(0, len(data), size) for m in pipe.feed(data[i : i + size])]
    assert steps(found) == [1, 2] and pipe.junk == 0


def test_junk_is_skipped_and_counted() -> None:
    pipe = RankPipe()
    junk = [b"hello\n", b"\xff\xfe\n", b"[]\n", b'{"event":"party"}\n', b'{"event":"progress","body":{"step":"x"}}\n']
    assert steps(pipe.feed(ONE + b"".join(junk) + TWO)) == [1, 2]
    assert pipe.junk == len(junk)


def test_an_endless_line_takes_no_memory_and_ends_with_its_newline() -> None:
    pipe = RankPipe()
    for _ in range(10):
        assert pipe.feed(b"x" * MAX_MESSAGE_BYTES) == []
    assert len(pipe._rest) <= MAX_MESSAGE_BYTES
    assert steps(pipe.feed(b"still junk\n" + TWO)) == [2]
    assert pipe.junk == 1
