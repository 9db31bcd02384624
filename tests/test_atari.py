"""Atari games as host environments: the protocol, frame by frame, and exact resume."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import ale_py
import numpy as np
import pytest
from pools import assert_same, play_at_random

from components.streams.atari import ATARI57, AtariGame, AtariStream, Shrinking
from components.suites.atari import Atari
from framework.host_environments.pool import HostPool
from framework.specs import EnvironmentSpec
from framework.testing.host import check_host_environment

PONG = AtariGame("pong")
PLAIN = AtariGame("pong", sticky=False)


@dataclasses.dataclass
class FakeEmulator:
    """Records what it is told; frame n of an episode is grey n everywhere, with reward n; over after ``length``.

    Of three lives one is lost at each of the frames ``lost``.
    """

    length: int = 10**9
    lost: tuple[int, ...] = ()
    acts: list[int] = dataclasses.field(default_factory=list)
    resets: int = 0
    frame: int = 0

    def act(self, action: int) -> int:
        self.acts.append(action)
        self.frame += 1
        return self.frame

    def game_over(self, *, with_truncation: bool) -> bool:
        assert not with_truncation
        return self.frame >= self.length

    def lives(self) -> int:
        return 3 - sum(self.frame >= frame for frame in self.lost)

    def reset_game(self) -> None:
        self.resets += 1
        self.frame = 0

    def getScreenDims(self) -> tuple[int, int]:
        return 210, 160

    def getScreenGrayscale(self, screen: np.ndarray) -> None:
        screen[:] = self.frame % 256

    def cloneSystemState(self) -> Any:
        return self.frame

    def restoreSystemState(self, state: Any) -> None:
        self.frame = state


def stream_of(game: AtariGame, emulator: FakeEmulator, seed: int = 0) -> AtariStream:
    return AtariStream(game, emulator, np.random.default_rng(seed))


@pytest.mark.parametrize(
    "game",
    [
        PONG,
        AtariGame("breakout", sticky=False, full_action_space=False, max_noops=30, clip_rewards=True),
        AtariGame("breakout", end_with_life=True),
    ],
    ids=["sticky", "noop", "lives"],
)
def test_conforms(game: AtariGame) -> None:
    check_host_environment(game)


def test_the_suite_is_the_benchmark() -> None:
    suite = Atari()
    assert suite.tasks() == ATARI57 == tuple(sorted(ATARI57))
    assert len(set(ATARI57)) == 57
    assert set(ATARI57) <= set(ale_py.roms.get_all_rom_ids())
    assert {suite.environment(game).spec for game in ATARI57} == {EnvironmentSpec((84, 84, 1), 18, "uint8")}
    assert suite.environment("zaxxon") == AtariGame("zaxxon")


def test_minimal_actions_are_the_games_own() -> None:
    game = AtariGame("pong", full_action_space=False)
    assert game.actions == (0, 1, 3, 4, 11, 12)
    assert game.spec.num_actions == 6
    emulator = FakeEmulator()
    stream = stream_of(dataclasses.replace(game, sticky=False), emulator)
    stream.reset()
    stream.step(5)
    assert emulator.acts == [12] * 4


def test_a_step_is_four_frames() -> None:
    emulator = FakeEmulator()
    stream = stream_of(PLAIN, emulator)
    assert stream.reset().max() == 0
    observation, reward, terminated, truncated = stream.step(7)
    assert emulator.acts == [7] * 4
    assert (reward, terminated, truncated) == (1 + 2 + 3 + 4, False, False)
    assert observation.shape == (84, 84, 1)
    assert observation.dtype == np.uint8
    np.testing.assert_array_equal(observation, 4)


def test_the_last_two_frames_are_shown_at_their_maximum() -> None:
    class Flickering(FakeEmulator):
        def getScreenGrayscale(self, screen: np.ndarray) -> None:
            screen[:] = 0
            screen[:, 40 * (self.frame - 1) : 40 * self.frame] = 200

    stream = stream_of(PLAIN, Flickering())
    stream.reset()
    columns = stream.step(0)[0][0, :, 0]
    np.testing.assert_array_equal(columns, [0] * 42 + [200] * 42)


def test_each_frame_repeats_with_probability_a_quarter() -> None:
    emulator = FakeEmulator()
    stream = stream_of(PONG, emulator)
    stream.reset()
    steps, repeats = 20_000, np.zeros(4)
    for step in range(steps):
        # Another action than the last: the first frame that follows it ends all repeating.
        stream.step(1 + step % 2)
    frames = np.reshape(emulator.acts, (steps, 4))
    wanted = 1 + np.arange(steps)[:, None] % 2
    repeats = (frames[1:] != wanted[1:]).mean(axis=0)
    # Frame k still repeats with 0.25^(k+1); three standard deviations of the first are 0.009.
    np.testing.assert_allclose(repeats, 0.25 ** np.arange(1, 5), atol=0.01)


def test_an_episode_begins_with_no_action_to_repeat() -> None:
    emulator = FakeEmulator(length=4)
    stream = stream_of(PONG, emulator)
    for _ in range(200):
        stream.reset()
        stream.step(5)
    assert {0, 5} == set(emulator.acts)


def test_without_sticky_actions_nothing_repeats() -> None:
    emulator = FakeEmulator()
    stream = stream_of(PLAIN, emulator)
    stream.reset()
    for action in range(18):
        stream.step(action)
    assert emulator.acts == list(itertools.chain.from_iterable([action] * 4 for action in range(18)))


def test_the_game_ends_within_a_step() -> None:
    emulator = FakeEmulator(length=6)
    stream = stream_of(PLAIN, emulator)
    stream.reset()
    assert stream.step(1)[1:] == (10.0, False, False)
    assert stream.step(1)[1:] == (5.0 + 6.0, True, False)
    assert len(emulator.acts) == 6


def test_a_lost_life_ends_an_episode_where_asked_for_and_the_game_goes_on() -> None:
    emulator = FakeEmulator(length=12, lost=(6, 12))
    stream = stream_of(dataclasses.replace(PLAIN, end_with_life=True, max_noops=3), emulator)
    stream.reset()
    emulator.frame = 0  # Whatever no-ops there were.
    assert stream.step(1)[2:] == (False, False)
    assert stream.step(1)[2:] == (True, False)
    saved = stream.snapshot()
    np.testing.assert_array_equal(stream.reset(), 8)  # The game's present frame: it goes on, without no-ops.
    assert (emulator.resets, emulator.frame) == (1, 8)
    assert stream.step(1)[2:] == (True, False)
    stream.reset()
    assert emulator.resets == 2
    other = stream_of(stream._game, again := FakeEmulator(length=12, lost=(6, 12)))
    other.restore(saved)
    other.reset()
    assert (again.resets, again.frame) == (0, 8)
    stream = stream_of(PLAIN, FakeEmulator(length=12, lost=(6,)))
    stream.reset()
    assert [stream.step(1)[2:] for _ in range(3)] == [(False, False), (False, False), (True, False)]


def test_the_frame_limit_cuts_off() -> None:
    stream = stream_of(dataclasses.replace(PLAIN, max_frames=10), FakeEmulator())
    for _ in range(2):
        stream.reset()
        assert [stream.step(0)[2:] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    stream = stream_of(dataclasses.replace(PLAIN, max_frames=8), FakeEmulator(length=8))
    stream.reset()
    stream.step(0)
    assert stream.step(0)[2:] == (True, False)  # Over is over, limit or not.


def test_no_ops_are_drawn_anew_and_count_as_frames() -> None:
    emulator = FakeEmulator()
    stream = stream_of(dataclasses.replace(PLAIN, max_noops=3, max_frames=7), emulator)
    drawn = []
    for _ in range(200):
        emulator.acts.clear()
        stream.reset()
        drawn.append(len(emulator.acts))
        assert set(emulator.acts) <= {0}
        left = 7 - len(emulator.acts)
        assert stream.step(1)[3] == (left <= 4)
    assert set(drawn) == {0, 1, 2, 3}


def test_a_game_that_ends_during_no_ops_begins_again() -> None:
    emulator = FakeEmulator(length=2)
    stream = stream_of(dataclasses.replace(PLAIN, max_noops=30), emulator)
    stream.reset()
    assert emulator.resets > 1
    assert emulator.frame < 2


def test_rewards_are_clipped_on_request_only() -> None:
    emulator = FakeEmulator()
    stream = stream_of(dataclasses.replace(PLAIN, clip_rewards=True), emulator)
    stream.reset()
    assert stream.step(0)[1] == 1.0


def test_frames_are_those_of_the_vector_environment() -> None:
    """ale_py's own preprocessing shrinks with OpenCV, whose floats round ties either way."""
    game = AtariGame("ms_pacman", sticky=False)
    stream = game.open((0,))
    reference = ale_py.AtariVectorEnv(
        "ms_pacman",
        1,
        repeat_action_probability=0.0,
        full_action_space=True,
        use_fire_reset=False,
        noop_max=0,
        stack_num=1,
        reward_clipping=False,
        num_threads=1,
    )
    frames = [(stream.reset(), reference.reset(seed=0)[0])]
    rng = np.random.default_rng(0)
    for action in rng.integers(18, size=150):
        observation, reward, terminated, _ = stream.step(int(action))
        expected, rewards, terminations, *_ = reference.step(np.array([action]))
        assert (reward, terminated) == (rewards[0], terminations[0])
        frames.append((observation, expected))
    reference.close()
    differences = np.stack([np.abs(mine[..., 0].astype(int) - theirs[0, 0]) for mine, theirs in frames])
    assert differences.max() <= 1
    assert (differences > 0).mean() < 1e-3


@pytest.mark.parametrize("rows", [210, 250])
def test_shrinking_is_the_mean_over_areas(rows: int) -> None:
    """Against the integral of the frame as a step function, at the corners of each pixel of the result."""
    frame = np.random.default_rng(0).integers(0, 256, (rows, 160)).astype(np.uint8)
    integral = np.zeros((rows + 1, 161))
    integral[1:, 1:] = frame.astype(float).cumsum(0).cumsum(1)

    def at(row: float, column: float) -> float:
        r, c = min(int(row), rows - 1), min(int(column), 159)
        y, x = row - r, column - c
        corners = integral[r : r + 2, c : c + 2]
        return float(np.array([1 - y, y]) @ corners @ np.array([1 - x, x]))

    height, width = rows / 84, 160 / 84
    expected = np.empty((84, 84))
    for i, j in itertools.product(range(84), range(84)):
        top, bottom, left, right = i * height, (i + 1) * height, j * width, (j + 1) * width
        expected[i, j] = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
    found = Shrinking.between((rows, 160), (84, 84))(frame)
    assert np.abs(found - expected / (height * width)).max() <= 0.5 + 1e-6


def test_shrinking_rounds_ties_to_even() -> None:
    shrink = Shrinking.between((2, 1), (1, 1))
    assert [shrink(np.array([[a], [b]], np.uint8))[0, 0] for a, b in ((0, 1), (1, 2), (254, 255))] == [0, 2, 254]
    white = np.full((250, 160), 255, np.uint8)
    assert (Shrinking.between((250, 160), (84, 84))(white) == 255).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_pool_continues_bit_for_bit(workers: int) -> None:
    """In the middle of episodes and over their ends: limits, dummies, no-ops and sticky actions included."""
    games = [AtariGame("pong", max_noops=9, max_frames=200), AtariGame("breakout"), AtariGame("pong")]
    with HostPool(games, [(1,), (2,), (3,)], workers) as pool:
        pool.reset()
        play_at_random(pool, 30, seed=0)
        snapshots = pool.snapshot()
        expected = play_at_random(pool, 60, seed=1)
    with HostPool(games, [(4,), (5,), (6,)], workers) as other:
        other.reset()
        play_at_random(other, 5, seed=2)
        other.restore(snapshots)
        assert_same(play_at_random(other, 60, seed=1), expected)


def test_seeds_tell_streams_apart() -> None:
    def rewards_and_frames(seed: int) -> bytes:
        stream = PONG.open((seed, 0))
        return stream.reset().tobytes() + b"".join(stream.step(2 + step % 2)[0].tobytes() for step in range(60))

    assert rewards_and_frames(0) == rewards_and_frames(0)
    assert rewards_and_frames(0) != rewards_and_frames(1)


def test_unknown_games_are_refused_with_a_guess() -> None:
    with pytest.raises(ValueError, match=r"no Atari game 'pongg'.*Did you mean 'pong'"):
        Atari(games=("alien", "pongg"))
    with pytest.raises(ValueError, match=r"no Atari game 'MsPacman'.*Did you mean 'ms_pacman'"):
        AtariGame("MsPacman")
    assert AtariGame("tetris").game == "tetris"  # Beyond the 57.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"games": ()}, "games must be named"),
        ({"games": ("pong", "pong")}, "each once"),
        ({"frame_skip": 0}, "frame_skip must be at least 1"),
        ({"max_noops": -1}, "max_noops must not be negative"),
        ({"max_noops": 30, "max_frames": 30}, "leaves no step"),
    ],
)
def test_wrong_protocols_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Atari(**wrong)
