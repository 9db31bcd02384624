"""Progress and stopping: what a person sees of a run, and how they end it."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
import time

import pytest

from framework.runs.progress import Figures, Progress
from framework.runs.stopping import StopSignals


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_figures_in_words() -> None:
    assert Figures(1200, 50000).texts() == ["step 1,200/50,000"]
    assert Figures(1200, 50000, 76_800, 0.83333, 1.0986, 0.01234, 12345.6, 3723.4).texts() == [
        "step 1,200/50,000",
        "76,800 env steps",
        "return 0.8333",
        "entropy 1.1",
        "meta-gradient 0.012",
        "12,346 steps/s",
        "1:02:03 left",
    ]


def test_plain_lines_now_and_then_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(100, description="catch", stream=stream, clock=clock) as progress:
        for step in range(1, 101):
            progress.update(step, episode_return=step / 100, env_steps_per_second=1000.0)
            clock.now += 0.25
    assert stream.getvalue().splitlines() == [
        "catch: step 1/100, return 0.01, 1,000 steps/s",
        "catch: step 41/100, return 0.41, 1,000 steps/s, 0:00:15 left",
        "catch: step 81/100, return 0.81, 1,000 steps/s, 0:00:05 left",
        "catch: step 100/100, return 1, 1,000 steps/s, 0:00:00 left",
    ]


def test_time_left_counts_from_the_first_update_of_this_start() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, description="catch", initial=900, stream=stream, clock=clock) as progress:
        clock.now += 60.0  # Compilation.
        progress.update(910)
        clock.now += 20.0
        progress.update(920)
    assert stream.getvalue().splitlines()[-1] == "catch: step 920/1,000, 0:02:40 left"


def test_figures_left_out_keep_their_last_value() -> None:
    stream = io.StringIO()
    with Progress(10, description="catch", stream=stream, clock=Clock()) as progress:
        progress.update(1, episode_return=0.0)
        progress.update(2)
    assert stream.getvalue().splitlines() == [
        "catch: step 1/10, return 0",
        "catch: step 2/10, return 0, 0:00:00 left",
    ]


def test_the_end_is_shown_once_and_nothing_without_an_update() -> None:
    stream = io.StringIO()
    with Progress(10, description="catch", stream=stream):
        pass
    assert stream.getvalue() == ""
    with Progress(10, description="catch", stream=stream) as progress:
        progress.update(10)
    assert stream.getvalue().count("\n") == 1


def test_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream, clock = Terminal(), Clock()
    with Progress(10_000, description="catch", stream=stream, clock=clock) as progress:
        for step in range(1, 10_001):
            progress.update(step, episode_return=0.5, env_steps_per_second=2000.0)
            clock.now += 0.001
    shown = stream.getvalue()
    assert "catch" in shown
    assert "step 10,000/10,000  return 0.5  2,000 steps/s  0:00:00 left" in shown
    assert 20 < shown.count("return 0.5") < 70  # 10 s at 5 a second, not 10,000.
    assert shown.endswith("\x1b[?25h")  # The cursor is back.


@pytest.mark.parametrize(
    ("columns", "figures"),
    [
        (60, "step 20/40  0:00:00 left"),
        (80, "step 20/40  return 0.6325  0:00:00 left"),
        (90, "step 20/40  return 0.6325  9,000 steps/s  0:00:00 left"),
        (200, "step 20/40  1,228,800 env steps  return 0.6325  entropy 1.6  9,000 steps/s  0:00:00 left"),
    ],
)
def test_a_narrow_terminal_shows_what_matters_most(monkeypatch: pytest.MonkeyPatch, columns: int, figures: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with Progress(40, description="lpg_small", stream=stream, clock=Clock()) as progress:
        for step in (19, 20):
            progress.update(
                step, env_steps=1_228_800, episode_return=0.6325, policy_entropy=1.6, env_steps_per_second=9000.0
            )
    shown = stream.getvalue()
    assert f" {figures}\x1b" in shown or f" {figures}\n" in shown or f" {figures} " in shown
    assert "lpg_small" in shown


def test_dumb_terminals_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(10, description="catch", stream=stream) as progress:
        progress.update(10)
    assert stream.getvalue() == "catch: step 10/10\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_become_a_flag(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), number)
        assert stop.requested == number.name
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_a_signal_is_told_of_while_a_step_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a call that does not come back to Python for a while."""
    told: list[float] = []
    monkeypatch.setattr(os, "write", lambda *_: told.append(time.monotonic()))
    with StopSignals() as stop:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2_000_000)
        returned = time.monotonic()
        assert stop.requested == "SIGTERM"
    (moment,) = told
    assert moment < returned - 0.1


def test_second_interrupt_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_after_terminate_is_the_first_interrupt() -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGTERM"
