"""ProcGen's games as host environments that are stepped in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pools import play

from components.streams.procgen import GAMES, ProcGenBatch, ProcGenGame
from components.suites.procgen import ProcGen
from framework.errors import UserError
from framework.host_environments.arrays import HostStep
from framework.host_environments.pool import HostPool
from framework.requirements import Requirement
from framework.specs import Resume

STARPILOT = ProcGenGame("starpilot", mode="easy")


@pytest.fixture(scope="module")
def installed() -> None:
    """Whether games can be made: the package and the library of the system that it needs."""
    try:
        STARPILOT.open((0,)).close()
    except UserError as error:
        pytest.skip(str(error))


def pool_of(*seeds: int, workers: int = 0, game: ProcGenGame = STARPILOT) -> HostPool:
    return HostPool([game] * len(seeds), [(9, seed) for seed in seeds], workers)


def test_the_suite_is_the_benchmark() -> None:
    suite = ProcGen()
    assert suite.tasks() == GAMES == tuple(sorted(GAMES))
    assert len(GAMES) == 16
    assert suite.environment("maze") == ProcGenGame("maze", "hard", 0, 500)
    assert {suite.environment(game).spec for game in GAMES} == {suite.environment("maze").spec}
    assert suite.environment("maze").resumes is Resume.NEW_EPISODE


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("game", GAMES)
def test_every_game_shows_what_the_spec_says(game: str) -> None:
    for mode in ("easy", "hard"):
        stream = ProcGenGame(game, mode).open((1,))  # type: ignore[arg-type]
        first = stream.reset()
        observation, reward, terminated, truncated = stream.step(14)
        assert first.shape == observation.shape == (64, 64, 3)
        assert first.dtype == observation.dtype == np.uint8
        assert first.std() > 10, "an empty picture"
        assert np.isfinite(reward)
        assert not truncated
        assert isinstance(terminated, bool)
        stream.close()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("workers", [0, 2])
def test_streams_do_not_depend_on_each_other(workers: int) -> None:
    """A stream plays alike alone and among others, by hand and in a pool, whoever stands still beside it."""
    actions = np.random.default_rng(0).integers(15, size=(150, 3))
    actions[40:60, 0] = -1
    with pool_of(1, 2, 3, workers=workers) as pool:
        first, together = pool.reset(), play(pool, actions)
    with pool_of(2) as pool:
        assert np.array_equal(pool.reset().observation[0], first.observation[1])
        alone = play(pool, actions[:, 1:2])
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one[:, 0], other[:, 1])
    stream, ends = STARPILOT.open((9, 3)), 0
    np.testing.assert_array_equal(stream.reset(), first.observation[2])
    for step, action in enumerate(actions[:, 2]):
        observation, reward, terminated, truncated = stream.step(int(action))
        assert not truncated
        assert (reward, terminated) == (together.reward[step, 2], together.last[step, 2])
        if terminated:
            ends, observation = ends + 1, stream.reset()
        np.testing.assert_array_equal(observation, together.observation[step, 2])
    assert ends > 0, "no episode has ended: this test is out of date"
    assert (together.observation[40:60, 0] == together.observation[39, 0]).all()
    stream.close()


@pytest.mark.usefixtures("installed")
def test_a_termination_shows_the_next_level() -> None:
    with pool_of(1, 2, 3, 4) as pool:
        pool.reset()
        played = play(pool, np.random.default_rng(1).integers(15, size=(200, 4)))
    assert played.last.any()
    np.testing.assert_array_equal(played.discount, 1.0 - played.last)
    assert not played.dummy.any()


@pytest.mark.usefixtures("installed")
def test_a_limit_is_followed_by_a_dummy() -> None:
    """Leaper's limit is 500 steps, and who stays where they are ends by nothing else."""
    with pool_of(1, 2, game=ProcGenGame("leaper")) as pool:
        pool.reset()
        played = play(pool, np.full((501, 2), 4))
    stood = ~played.last[:499].any(axis=0)
    assert stood.any(), "every episode was over before its limit: this test is out of date"
    assert not played.last[499, stood].any()
    assert played.dummy[500, stood].all()
    assert played.last[500, stood].all()
    assert (played.discount[500, stood] == 1).all()
    assert (played.reward[500, stood] == 0).all()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("start", "count"), [(0, 500), (500, 1000), (7, 1)])
def test_levels_are_those_asked_for(start: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    check = ProcGenBatch._refuse_other_levels

    def noting(batch: ProcGenBatch, info: dict[str, Any]) -> None:
        seen.extend(info["level_seed"].tolist())
        check(batch, info)

    monkeypatch.setattr(ProcGenBatch, "_refuse_other_levels", noting)
    batch = ProcGenGame("starpilot", "easy", start, count).open_many([(seed,) for seed in range(20)])
    for _ in range(5):
        batch.reset(np.arange(20))
    assert start <= min(seen) <= max(seen) < start + count
    assert len(set(seen)) >= min(count, 60)
    with pytest.raises(RuntimeError, match=f"shows the levels 3 to {start + count} of starpilot"):
        check(batch, {"level_seed": np.array([start + count, 3])})
    batch.close()


@pytest.mark.usefixtures("installed")
def test_a_resume_begins_new_episodes() -> None:
    """On other levels than the first ones; from there on all repeats itself."""
    actions = np.full((4, 2), 4)

    def resumed(snapshots: list[bytes]) -> tuple[HostStep, list[bytes]]:
        with pool_of(5, 6) as pool:
            pool.restore(snapshots)
            return play(pool, actions), pool.snapshot()

    with pool_of(1, 2) as pool:
        first = pool.reset()
        play(pool, actions)
        snapshots = pool.snapshot()
    played, again = resumed(snapshots)
    assert played.dummy[0].all()
    assert played.last[0].all()
    assert not played.dummy[1:].any()
    assert not np.array_equal(played.observation[0], first.observation)
    repeated, _ = resumed(snapshots)
    np.testing.assert_array_equal(repeated.observation, played.observation)
    later, _ = resumed(again)
    assert not np.array_equal(later.observation[0], played.observation[0])


@pytest.mark.usefixtures("installed")
def test_another_game_may_take_a_place() -> None:
    """As when a life is over: the other rows are stepped together as before."""
    actions = np.random.default_rng(2).integers(15, size=(30, 3))
    with pool_of(1, 2, 3) as pool:
        pool.reset()
        untouched = play(pool, actions)
    with pool_of(1, 2, 3) as pool:
        pool.reset()
        maze = ProcGenGame("maze", "easy")
        first = pool.replace(1, maze, (4,))
        played, snapshots = play(pool, actions), pool.snapshot()
    for place in (0, 2):
        np.testing.assert_array_equal(played.observation[:, place], untouched.observation[:, place])
    by_hand = maze.open((4,))
    np.testing.assert_array_equal(by_hand.reset(), first)
    np.testing.assert_array_equal(by_hand.step(int(actions[0, 1]))[0], played.observation[0, 1])
    by_hand.close()
    with pool_of(1, 2, 3) as pool:
        pool.restore(snapshots)
        assert pool._environments[1] == maze
        assert play(pool, actions).dummy[0].all()


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requirement, "_has_package", False)
    with pytest.raises(UserError, match=r"envpool is not installed: pip install 'rulespace\[procgen\]'"):
        ProcGenGame("maze").open((0,))


def test_a_missing_library_of_the_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutQt:
        @staticmethod
        def make_gymnasium(*_: object, **__: object) -> None:
            raise ImportError("libQt5Gui.so.5: cannot open shared object file")

    monkeypatch.setattr(Requirement, "module", lambda *_: WithoutQt)
    with pytest.raises(UserError, match=r"libQt5Gui.*apt-get install libqt5gui5$"):
        ProcGenGame("maze").open((0,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"games": ()}, "games must be named"),
        ({"games": ("maze", "maze")}, "each once"),
        ({"games": ("mazes",)}, "there is no ProcGen game 'mazes', only bigfish.*Did you mean 'maze'"),
        ({"start_level": -1}, "start_level must not be negative"),
        ({"num_levels": -1}, "num_levels must not be negative"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProcGen(**wrong)
