"""Pools of host environments: episodes joined without losing a transition, exact resume, no process left behind."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from framework.errors import UserError
from framework.host_environments.arrays import STAND_STILL, HostStep
from framework.host_environments.pool import HostPool
from framework.specs import EnvironmentSpec

ROOT = Path(__file__).resolve().parents[1]
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@dataclasses.dataclass(frozen=True)
class Counter:
    """Shows how many steps the episode has, and a random number; the reward is the step's number times the action.

    Attributes:
      terminal: the step that terminates an episode.
      limit: the step that cuts it off.
      num_actions: 2, or as many as are wanted for another specification.
    """

    terminal: int = 10**6
    limit: int = 10**6
    num_actions: int = 2

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec((2,), self.num_actions)

    def open(self, seed: Sequence[int]) -> CounterStream:
        return CounterStream(self, np.random.default_rng(list(seed)))


class CounterStream:
    def __init__(self, counter: Counter, generator: np.random.Generator) -> None:
        self.counter, self.generator, self.count = counter, generator, 0

    def reset(self) -> np.ndarray:
        self.count = 0
        return self.observation()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        self.count += 1
        terminated, truncated = self.count == self.counter.terminal, self.count == self.counter.limit
        return self.observation(), float(action * self.count), terminated, truncated

    def observation(self) -> np.ndarray:
        return np.array([self.count, self.generator.random()], np.float32)

    def snapshot(self) -> bytes:
        return pickle.dumps((self.counter, self.generator, self.count))

    def restore(self, snapshot: bytes) -> None:
        self.counter, self.generator, self.count = pickle.loads(snapshot)

    def close(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Faulty(Counter):
    """Does something wrong at step 2 of an episode, or from the beginning."""

    fault: str = "raises"

    def open(self, seed: Sequence[int]) -> CounterStream:
        return FaultyStream(self, np.random.default_rng(list(seed)))


class FaultyStream(CounterStream):
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        shown = super().step(action)
        if self.count == 2:
            getattr(self, self.counter.fault)()
        return shown

    def observation(self) -> np.ndarray:
        return super().observation()[: 1 if self.counter.fault == "is_narrow" else 2]

    def raises(self) -> None:
        raise ZeroDivisionError("the ball has no radius")

    def dies(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(self) -> None:
        time.sleep(600)


@dataclasses.dataclass(frozen=True)
class Slow(Counter):
    """Takes a while to be restored."""

    def open(self, seed: Sequence[int]) -> CounterStream:
        return SlowStream(self, np.random.default_rng(list(seed)))


class SlowStream(CounterStream):
    def restore(self, snapshot: bytes) -> None:
        time.sleep(0.6)
        super().restore(snapshot)


@dataclasses.dataclass(frozen=True)
class Unclosable(Counter):
    """Fails when it is closed."""

    def open(self, seed: Sequence[int]) -> CounterStream:
        return UnclosableStream(self, np.random.default_rng(list(seed)))


class UnclosableStream(CounterStream):
    def close(self) -> None:
        raise OSError("it is stuck")


@dataclasses.dataclass(frozen=True)
class Looking(Counter):
    """Shows whether its process holds JAX, and whether it is for others to end it."""

    def open(self, seed: Sequence[int]) -> CounterStream:
        return LookingStream(self, np.random.default_rng(list(seed)))


class LookingStream(CounterStream):
    def observation(self) -> np.ndarray:
        ignores = all(signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM))
        return np.array(["jax" in sys.modules, ignores], np.float32)


@dataclasses.dataclass(frozen=True)
class Measured(Counter):
    """Tells how many steps an episode had, and one number more than it says where it is at fault."""

    fault: bool = False

    @property
    def spec(self) -> EnvironmentSpec:
        return dataclasses.replace(super().spec, episode_numbers=("steps/made", "steps/squared"))

    def open(self, seed: Sequence[int]) -> CounterStream:
        return MeasuredStream(self, np.random.default_rng(list(seed)))


class MeasuredStream(CounterStream):
    def episode_numbers(self) -> tuple[float, ...]:
        return (self.count, self.count**2, 0)[: 3 if self.counter.fault else 2]


def pool_of(*environments: Counter, workers: int = 0) -> HostPool:
    return HostPool(environments, [(7, index) for index in range(len(environments))], workers)


def play(pool: HostPool, steps: int, action: int = 1) -> HostStep:
    """Some steps, one row each [T, S]."""
    rows = [pool.step(np.full(pool.num_streams, action)) for _ in range(steps)]
    return HostStep(*(np.stack(parts) for parts in zip(*rows, strict=True)))


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ended(processes: Sequence[int], patience: float = 20.0) -> bool:
    until = time.monotonic() + patience
    while any(map(is_alive, processes)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(is_alive, processes))


@WORKERS
def test_episodes_are_measured_where_they_end(workers: int) -> None:
    """Before the next one begins, after a termination as at the dummy after a limit."""
    with pool_of(Measured(terminal=2), Measured(limit=3), workers=workers) as pool:
        assert not pool.reset().numbers.any()
        numbers = play(pool, 8).numbers
        made = [[0, 0], [2, 0], [0, 0], [2, 3], [0, 0], [2, 0], [0, 0], [2, 3]]
        np.testing.assert_array_equal(numbers[..., 0], made)
        np.testing.assert_array_equal(numbers[..., 1], np.square(made))


def test_unnamed_episode_numbers_are_refused() -> None:
    with pool_of(Measured(terminal=1, fault=True)) as pool:
        pool.reset()
        with pytest.raises(UserError, match="tells 3 episode_numbers, its spec names 2"):
            play(pool, 1)


@WORKERS
def test_a_termination_shows_the_next_episode_at_once(workers: int) -> None:
    with pool_of(Counter(terminal=3), Counter(terminal=2), workers=workers) as pool:
        first = pool.reset()
        np.testing.assert_array_equal(first.observation[:, 0], 0)
        assert not first.last.any()
        assert first.discount.all()
        rows = play(pool, 4)
    np.testing.assert_array_equal(rows.observation[:, 0, 0], [1, 2, 0, 1])
    np.testing.assert_array_equal(rows.reward[:, 0], [1, 2, 3, 1])
    np.testing.assert_array_equal(rows.discount[:, 0], [1, 1, 0, 1])
    np.testing.assert_array_equal(rows.last[:, 0], [0, 0, 1, 0])
    np.testing.assert_array_equal(rows.last[:, 1], [0, 1, 0, 1])
    assert not rows.dummy.any()
    assert (rows.reward.dtype, rows.discount.dtype, rows.last.dtype) == (np.float32, np.float32, bool)


@WORKERS
def test_a_limit_shows_the_final_observation_and_then_a_dummy(workers: int) -> None:
    with pool_of(Counter(limit=2), Counter(limit=2, terminal=2), workers=workers) as pool:
        pool.reset()
        rows = play(pool, 5)
    np.testing.assert_array_equal(rows.observation[:, 0, 0], [1, 2, 0, 1, 2])
    np.testing.assert_array_equal(rows.reward[:, 0], [1, 2, 0, 1, 2])
    np.testing.assert_array_equal(rows.discount[:, 0], 1)
    np.testing.assert_array_equal(rows.last[:, 0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows.dummy[:, 0], [0, 0, 1, 0, 0])
    # A termination in the very step of the limit is a termination.
    np.testing.assert_array_equal(rows.discount[:, 1], [1, 0, 1, 0, 1])
    assert not rows.dummy[:, 1].any()


def test_dummies_alone_have_no_weight() -> None:
    from framework.types import transition_weight

    with pool_of(Counter(limit=2), Counter(terminal=3)) as pool:
        pool.reset()
        rows = play(pool, 9)
    np.testing.assert_array_equal(np.asarray(transition_weight(rows.discount, rows.last)) == 0, rows.dummy)
    assert rows.dummy.any()


@WORKERS
def test_a_restored_pool_continues_as_if_never_stopped(workers: int) -> None:
    environments = [Counter(limit=3), Counter(terminal=5), Counter(limit=4)]
    with pool_of(*environments, workers=workers) as pool:
        pool.reset()
        play(pool, 3)  # Stream 0 has been cut off: its next step is a dummy.
        snapshots = pool.snapshot()
        expected = play(pool, 8)
    assert expected.dummy[0, 0]
    seeds = [(99, index) for index in range(3)]
    with HostPool(environments, seeds, workers=3 - workers) as other:
        other.reset()
        play(other, 1)
        for _ in range(2):
            other.restore(snapshots)
            for found, wanted in zip(play(other, 8), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


@WORKERS
def test_a_stream_can_be_replaced_and_is_restored_with_its_environment(workers: int) -> None:
    with pool_of(Counter(limit=2), Counter(), workers=workers) as pool:
        pool.reset()
        play(pool, 2)
        first = pool.replace(0, Counter(terminal=2), (5,))
        assert first[0] == 0
        snapshots = pool.snapshot()
        rows = play(pool, 3)
        np.testing.assert_array_equal(rows.observation[:, 0, 0], [1, 0, 1])
        np.testing.assert_array_equal(rows.observation[:, 1, 0], [3, 4, 5])
        with pytest.raises(UserError, match="put it into a pool of its own"):
            pool.replace(1, Counter(num_actions=3), (5,))
        with pytest.raises(ValueError, match="streams 0 to 1, got 2"):
            pool.replace(2, Counter(), (5,))
    with pool_of(Counter(limit=2), Counter(), workers=workers) as other:
        other.reset()
        other.restore(snapshots)
        for found, wanted in zip(play(other, 3), rows, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_workers_do_not_change_what_is_played() -> None:
    environments = [Counter(terminal=3 + index) for index in range(5)]
    played = []
    for workers in (0, 1, 3, 9):
        with pool_of(*environments, workers=workers) as pool:
            pool.reset()
            assert len(pool.worker_ids) == min(workers, 5)
            played.append(play(pool, 7))
    for other in played[1:]:
        for found, wanted in zip(other, played[0], strict=True):
            np.testing.assert_array_equal(found, wanted)


@WORKERS
def test_a_stream_may_stand_still(workers: int) -> None:
    """Whatever comes next: a step, a new episode, a dummy."""
    with pool_of(Counter(limit=2), Counter(), workers=workers) as pool:
        pool.reset()
        for count, still in ((1, False), (2, False), (0, True)):
            shown = pool.step(np.array([1, 1]))
            assert shown.observation[0, 0] == count
            assert shown.dummy[0] == still
            saved = pool.snapshot()
            for _ in range(2):
                again = pool.step(np.array([STAND_STILL, 1]))
                for found, wanted in zip(again, shown, strict=True):
                    np.testing.assert_array_equal(found[0], wanted[0])
            assert [new == old for new, old in zip(pool.snapshot(), saved, strict=True)] == [True, False]
        assert again.observation[1, 0] == 9


def test_what_was_shown_does_not_change() -> None:
    with pool_of(Counter(), workers=1) as pool:
        shown = pool.reset()
        kept = shown.observation.copy()
        play(pool, 2)
        np.testing.assert_array_equal(shown.observation, kept)


@WORKERS
def test_a_step_is_sent_and_received(workers: int) -> None:
    with pool_of(Counter(), Counter(), workers=workers) as pool:
        pool.reset()
        with pytest.raises(RuntimeError, match="no step was begun"):
            pool.receive()
        pool.send(np.array([1, 0]))
        with pytest.raises(RuntimeError, match="call receive first"):
            pool.send(np.array([1, 0]))
        with pytest.raises(RuntimeError, match="call receive first"):
            pool.snapshot()
        np.testing.assert_array_equal(pool.receive().reward, [1, 0])


def test_workers_hold_no_jax_and_leave_signals_to_the_pool() -> None:
    with pool_of(Looking(), workers=1) as pool:
        np.testing.assert_array_equal(pool.reset().observation, [[False, True]])


def test_streams_of_the_shipped_suites_import_no_jax() -> None:
    program = (
        "import sys, components.streams.atari, components.streams.gymnasium, framework.host_environments.pool\n"
        "components.streams.atari.AtariGame('pong').open((1,)).reset()\n"
        "components.streams.gymnasium.GymnasiumEnvironment('CartPole-v1').open((1,)).reset()\n"
        "assert not {'jax', 'flax', 'gin'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_actions_must_fit() -> None:
    with pool_of(Counter(), Counter()) as pool:
        pool.reset()
        with pytest.raises(ValueError, match="as many actions"):
            pool.step(np.array([0]))
        with pytest.raises(ValueError, match="actions are 0 to 1, or -1 for a stream that stands still, got 0 to 2"):
            pool.step(np.array([0, 2]))
        with pytest.raises(ValueError, match="got -2 to 0"):
            pool.step(np.array([-2, 0]))


def test_pools_must_fit_together() -> None:
    with pytest.raises(ValueError, match="a seed for each stream"):
        HostPool([Counter()], [], 0)
    with pytest.raises(ValueError, match="must not be negative"):
        HostPool([Counter()], [(1,)], -1)
    with pytest.raises(UserError, match="one specification"):
        pool_of(Counter(), Counter(num_actions=3))
    with pool_of(Counter(), Counter()) as pool, pytest.raises(UserError, match="keep their number"):
        pool.restore([b""])
    with pytest.raises(RuntimeError, match="closed"):
        pool.reset()


@WORKERS
def test_a_failing_environment_is_named(workers: int) -> None:
    pool = pool_of(Counter(), Faulty(), workers=workers)
    processes = pool.worker_ids
    pool.reset()
    with pytest.raises(
        UserError,
        match=r"stepping stream 1, Faulty\(.*test_host.py, line \d+: ZeroDivisionError: the ball has no radius",
    ) as error:
        play(pool, 2)
    assert "Traceback" in error.value.__notes__[0]
    with pytest.raises(RuntimeError, match="closed"):
        pool.reset()
    assert ended(processes)


@WORKERS
def test_observations_must_be_as_the_spec_says(workers: int) -> None:
    with (
        pool_of(Faulty(fault="is_narrow"), workers=workers) as pool,
        pytest.raises(UserError, match=r"Faulty\(.*shows observations float32\[1\], its spec says float32\[2\]"),
    ):
        pool.reset()


def test_a_killed_worker_is_reported_with_its_streams() -> None:
    pool = pool_of(Counter(), Counter(), Faulty(fault="dies"), Counter(), workers=2)
    processes = pool.worker_ids
    pool.reset()
    with pytest.raises(UserError, match=r"the worker process of stream 2, Faulty\([^;]*was ended by SIGKILL"):
        play(pool, 2)
    assert ended(processes)


def test_a_worker_that_hangs_is_given_up() -> None:
    environments = [Counter(), Faulty(fault="hangs"), Counter(), Counter()]
    pool = HostPool(environments, [(7, index) for index in range(4)], workers=2, patience=5.0)
    processes = pool.worker_ids
    pool.reset()
    with pytest.raises(
        UserError, match=r"stream 1, Faulty\([^;]*has not answered for 5 seconds: the environment hangs"
    ):
        play(pool, 2)
    assert ended(processes)


def test_a_worker_that_goes_on_to_other_streams_does_not_hang() -> None:
    """Four streams of one worker, each restored within the limit, but not all of them."""
    environments = [Slow(), Slow(), Slow(), Slow()]
    with HostPool(environments, [(7, index) for index in range(4)], workers=1, patience=1.0) as pool:
        shown = pool.reset()
        assert not pool.restore(pool.snapshot()).any()
        np.testing.assert_array_equal(shown.observation[:, 0], 0)


def test_an_error_is_not_hidden_by_streams_that_cannot_be_closed() -> None:
    environments = [Faulty(), Unclosable(), Counter()]
    with pytest.raises(UserError, match="ZeroDivisionError: the ball has no radius") as caught:
        play(pool_of(*environments), 2)
    assert any("OSError: it is stuck" in note for note in caught.value.__notes__)


def test_an_environment_of_the_main_script_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import dataclasses, sys\n"
        "from test_host import Counter\n"
        "from framework.errors import UserError\n"
        "from framework.host_environments.pool import HostPool\n"
        "class Own(Counter): pass\n"
        "try:\n"
        "    HostPool([Own()], [(1,)], 1)\n"
        "except UserError as error:\n"
        "    assert 'importable by the name of a module' in str(error), error\n"
        "    sys.exit(17)\n"
    )
    assert subprocess.run([sys.executable, script], env=environment_of_scripts(), check=False).returncode == 17


def environment_of_scripts() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


SCRIPT = """
import signal, time
import numpy as np
from framework.host_environments.pool import HostPool
from test_host import Counter, Faulty

signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell has it ignored in what it runs in the background.
pool = HostPool([Counter(), {environment}], [(1,), (2,)], 2)
print(*pool.worker_ids, flush=True)
pool.reset()
{then}
"""


@pytest.fixture
def scripts() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("environment", "then", "sent"),
    [
        ("Counter()", "raise KeyError('unrelated')", None),
        ("Counter()", "pool.send(np.zeros(2, int))", None),
        ("Counter()", "while True: pool.step(np.zeros(2, int))", signal.SIGINT),
        ("Counter()", "while True: pool.step(np.zeros(2, int))", signal.SIGTERM),
        ("Counter()", "time.sleep(600)", signal.SIGKILL),
        ("Faulty(fault='hangs')", "while True: pool.step(np.zeros(2, int))", signal.SIGINT),
        ("Faulty(fault='hangs')", "while True: pool.step(np.zeros(2, int))", signal.SIGKILL),
    ],
    ids=[
        "exception",
        "while stepping",
        "interrupt",
        "termination",
        "kill",
        "interrupt while hanging",
        "kill while hanging",
    ],
)
def test_no_worker_outlives_the_main_process(
    scripts: list[subprocess.Popen[str]], environment: str, then: str, sent: signal.Signals | None
) -> None:
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(environment=environment, then=then)],
        env=environment_of_scripts(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    scripts.append(script)
    assert script.stdout is not None
    processes = [int(word) for word in script.stdout.readline().split()]
    assert len(processes) == 2
    if sent is not None:
        time.sleep(0.5)
        assert all(map(is_alive, processes))
        script.send_signal(sent)
    script.wait(timeout=60)
    assert ended(processes)


def test_a_forgotten_pool_is_closed() -> None:
    pool = pool_of(Counter(), workers=1)
    processes = pool.worker_ids
    del pool
    assert ended(processes)


def test_a_pool_leaves_no_open_files() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    with pool_of(Counter(), workers=1):
        pass
    before = open_files()
    for _ in range(3):
        with pool_of(Counter(), Counter(), workers=2) as pool:
            pool.reset()
    del pool
    assert open_files() <= before
