import io

import pytest
from dev.cluster import progress


def test_a_step_ends_on_a_line_with_its_time():
    out = io.StringIO()
    with progress.step("building", out) as current:
        current.note = "144 MB"
    assert out.getvalue().startswith("  ✓ building  0.0 s  144 MB")


def test_a_failed_step_says_so():
    out = io.StringIO()
    with pytest.raises(RuntimeError), progress.step("building", out):
        raise RuntimeError
    assert "✗ building" in out.getvalue()


def test_a_log_gets_a_sign_of_life_while_work_goes_on(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.01)
    out = io.StringIO()
    with progress.step("building", out) as current:
        current.note = "12 packages"
        while "12 packages" not in out.getvalue():
            pass
    assert "\x1b" not in out.getvalue()


def test_a_line_never_wraps():
    assert len(progress.line("x", "y" * 500, 1.0)) == progress.WIDTH


def test_times_are_short_to_read():
    assert progress.elapsed_text(8.24) == "8.2 s"
    assert progress.elapsed_text(187) == "3 min 07 s"
