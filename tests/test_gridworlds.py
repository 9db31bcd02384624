"""Grid worlds: the numbers of LPG's table, and every part of their dynamics."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.suites.gridworld_environment import (
    MOVES,
    Board,
    GridLevel,
    GridState,
    GridTask,
    GridworldEnvironment,
    StateTable,
)
from components.suites.gridworlds import Gridworld, Gridworlds, RandomGridworlds, TabularGridworlds
from framework.config import load
from framework.environment import Batched
from framework.experiment import Experiment
from framework.testing import check_environment
from framework.types import TimeStep

UP_LEFT, UP, LEFT, STAY, RIGHT, DOWN = 0, 1, 3, 4, 5, 7

DENSE = [(1, 0, 0.05), (1, 0, 0.05), (-1, 0.5, 0.1), (-1, 0, 0.5)]
LONG_HORIZON = [(1, 0, 0.01), (1, 0, 0.01), (-1, 0.5, 1), (-1, 0.5, 1)]
TABLE: list[tuple[type, str, tuple[int, int], list[tuple[float, float, float]], int, bool]] = [
    (TabularGridworlds, "dense", (11, 11), DENSE, 500, False),
    (TabularGridworlds, "sparse", (13, 13), [(1, 1, 0), (-1, 1, 0)], 50, False),
    (TabularGridworlds, "long_horizon", (11, 11), LONG_HORIZON, 1000, False),
    (TabularGridworlds, "longer_horizon", (7, 9), [(1, 0.1, 0.01)] * 2 + [(-1, 0.8, 1)] * 5, 2000, True),
    (TabularGridworlds, "long_dense", (11, 11), [(1, 0, 0.005)] * 4, 2000, True),
    (RandomGridworlds, "dense", (11, 11), DENSE, 500, False),
    (RandomGridworlds, "long_horizon", (11, 11), LONG_HORIZON, 1000, False),
    (RandomGridworlds, "small", (5, 7), [(1, 0, 0.05)] * 2 + [(-1, 0.5, 0.1)] * 2, 500, False),
    (RandomGridworlds, "small_sparse", (5, 7), [(1, 1, 1)] + [(-1, 1, 1)] * 2, 50, False),
    (RandomGridworlds, "very_dense", (11, 11), [(1, 0, 1)], 2000, False),
]
"""Of Oh et al. 2020: suite, name, grid, (reward, P(terminate), P(respawn)) of each object, steps, walls."""


@functools.cache
def compiled(environment: GridworldEnvironment) -> tuple[Any, Any, Any]:
    return tuple(jax.jit(f) for f in (environment.draw_task, environment.reset, environment.step))


class World:
    """One grid world, played by hand."""

    def __init__(self, gridworld: Gridworld, *, tabular: bool = True) -> None:
        suite = Gridworlds((gridworld,), tabular=tabular)
        self.environment, self.level = suite.environment(gridworld.name), suite.level(gridworld.name)
        self.draw_task, self.reset, self._step = compiled(self.environment)
        self.task: GridTask = self.draw_task(jax.random.key(0), self.level)
        if tabular:
            # Objects on the last floor cells, out of the way.
            places = self.level.num_sites - 1 - jnp.arange(self.environment.num_objects)
            self.task = self.task.replace(places=places)
        state, _ = self.reset(jax.random.key(0), self.task)
        self.state: GridState = state.replace(agent=jnp.asarray(0, jnp.int32))
        self.steps = 0

    def step(self, action: int, seed: int = 0) -> TimeStep:
        self.steps += 1
        key = jax.random.fold_in(jax.random.key(seed), self.steps)
        self.state, time_step = self._step(key, self.task, self.state, jnp.asarray(action, jnp.int32))
        return time_step

    def put(self, agent: int, *present: bool) -> None:
        """Puts the agent on a site, and says which objects are there."""
        there = jnp.asarray(present) if present else self.state.present
        self.state = self.state.replace(agent=jnp.asarray(agent, jnp.int32), present=there)


@pytest.mark.parametrize(("suite", "name", "grid", "objects", "steps", "walls"), TABLE)
def test_numbers_of_the_table(
    suite: type, name: str, grid: tuple[int, int], objects: list[tuple[float, float, float]], steps: int, walls: bool
) -> None:
    tabular = suite is TabularGridworlds
    task = f"{'tabular' if tabular else 'random'}_{name}"
    assert task in suite().tasks()
    level: GridLevel = suite().level(task)
    count = int(level.exists.sum())
    found = [tuple(map(float, numbers)) for numbers in zip(level.reward, level.termination, level.respawn, strict=True)]
    np.testing.assert_allclose(found[:count], objects, rtol=1e-6)
    np.testing.assert_array_equal(found[count:], 0.0)
    assert int(level.max_steps) == steps
    assert (int(level.num_sites) < grid[0] * grid[1]) == walls
    alone = suite((name,))
    assert alone.tasks() == (task,)
    spec = alone.environment(task).spec
    assert spec.num_actions == 9
    if tabular:
        assert spec.num_states == grid[0] * grid[1] * 2 ** len(objects)
    else:
        floor = np.zeros((11, 11), bool)
        floor[: grid[0], : grid[1]] = True
        assert isinstance(level.view, Board)
        np.testing.assert_array_equal(~level.view.walls[..., 1], floor)


def test_a_suite_is_one_environment() -> None:
    tabular, random = TabularGridworlds(), RandomGridworlds()
    for suite in (tabular, random):
        assert len(suite.tasks()) == 5
        assert len({suite.environment(task) for task in suite.tasks()}) == 1
    spec = tabular.environment("tabular_sparse").spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_states) == ((), "int32", 8064)
    spec = random.environment("random_small").spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_states) == ((11, 11, 5), "bool", None)


@pytest.mark.parametrize("name", ["longer_horizon", "long_dense"])
def test_walls_leave_no_cell_out_of_reach(name: str) -> None:
    level = TabularGridworlds().level(f"tabular_{name}")
    reached = {0}
    for _ in range(int(level.num_sites)):
        reached |= {int(site) for at in reached for site in level.neighbours[at]}
    assert reached == set(range(int(level.num_sites)))


def test_seven_by_nine_has_a_column_with_two_gaps_and_eleven_has_four_rooms() -> None:
    assert int(TabularGridworlds().level("tabular_longer_horizon").num_sites) == 7 * 9 - 7 + 2
    assert int(TabularGridworlds().level("tabular_long_dense").num_sites) == 11 * 11 - 21 + 4


def test_actions_move_to_the_neighbouring_cells() -> None:
    world = World(Gridworld("three", 3, 4, ((1, 1.0, 0.0, 0.0),)))
    for action, (down, right) in enumerate(MOVES):
        world.put(5)  # row 1, column 1
        world.step(action)
        assert int(world.state.agent) == 5 + 4 * down + right


def test_blocked_moves_stay() -> None:
    world = World(Gridworld("wall", 2, 3, ((1, 1.0, 0.0, 0.0),), walls=("..#", "...")))
    for action in (UP_LEFT, UP, LEFT, 2, 6, STAY):  # from the corner, off the grid; and staying
        world.put(0)
        world.step(action)
        assert int(world.state.agent) == 0
    world.put(1)
    world.step(RIGHT)  # into the wall
    assert int(world.state.agent) == 1
    world.step(8)  # diagonally past it
    assert int(world.state.agent) == 4


def test_contact_collects() -> None:
    world = World(Gridworld("collect", 1, 4, ((1, 2.5, 0.0, 0.0), (1, -1.0, 0.0, 0.0))))  # objects on 3 and 2
    rewards = [float(world.step(action).reward) for action in (RIGHT, RIGHT, STAY, RIGHT, LEFT, RIGHT)]
    assert rewards == [0.0, -1.0, 0.0, 2.5, 0.0, 0.0]
    assert not world.state.present.any()


@pytest.mark.parametrize(("probability", "ends"), [(0.0, False), (1.0, True)])
def test_collecting_terminates(probability: float, ends: bool) -> None:
    world = World(Gridworld("end", 1, 2, ((1, 1.0, probability, 0.0),)))
    away, contact = world.step(STAY), world.step(RIGHT)
    assert (bool(away.last), float(away.discount)) == (False, 1.0)
    assert (bool(contact.last), float(contact.discount)) == (ends, 1.0 - ends)
    assert float(contact.reward) == 1.0


def test_what_was_collected_comes_back_a_step_later_at_the_earliest() -> None:
    world = World(Gridworld("order", 1, 3, ((1, 1.0, 0.0, 1.0),)))  # object on 2
    world.put(1)
    assert float(world.step(RIGHT).reward) == 1.0
    assert not world.state.present[0]  # there before the step: not among those that may come back
    assert float(world.step(STAY).reward) == 0.0
    assert world.state.present[0]  # back under the agent, after it could have been collected
    assert float(world.step(STAY).reward) == 1.0


def rate(world: World, of: Any, size: int = 4000) -> float:
    """How often something is true of a step from the world's state to the right."""
    keys = jax.random.split(jax.random.key(1), size)
    steps = jax.vmap(lambda key: world.environment.step(key, world.task, world.state, jnp.asarray(RIGHT)))
    return float(np.mean(of(*jax.jit(steps)(keys))))


def test_probabilities_of_termination_and_return() -> None:
    world = World(Gridworld("chances", 1, 4, ((1, 1.0, 0.3, 0.5), (1, -1.0, 0.8, 0.2))))  # objects on 3 and 2
    world.put(2, True, False)
    assert rate(world, lambda state, time_step: time_step.last) == pytest.approx(0.3, abs=0.03)
    assert rate(world, lambda state, time_step: state.present[:, 1]) == pytest.approx(0.2, abs=0.03)
    world.put(1, False, True)
    assert rate(world, lambda state, time_step: time_step.last) == pytest.approx(0.8, abs=0.03)
    assert rate(world, lambda state, time_step: state.present[:, 0]) == pytest.approx(0.5, abs=0.03)
    assert rate(world, lambda state, time_step: state.present[:, 1]) == 0.0


@pytest.mark.parametrize("tabular", [True, False])
def test_the_limit_of_steps_terminates(tabular: bool) -> None:
    world = World(Gridworld("limit", 2, 3, ((1, 1.0, 0.0, 0.0),), max_steps=3), tabular=tabular)
    steps = [world.step(STAY) for _ in range(3)]
    assert [bool(step.last) for step in steps] == [False, False, True]
    assert [float(step.discount) for step in steps] == [1.0, 1.0, 0.0]


def test_states_are_numbered_one_to_one() -> None:
    world = World(Gridworld("states", 3, 3, ((2, 1.0, 0.0, 0.5), (1, -1.0, 0.5, 0.1)), walls=("...", ".#.", "...")))
    assert isinstance(world.level.view, StateTable)
    cells = [0, 1, 2, 3, 5, 6, 7, 8]
    numbers = set()
    for site, cell in enumerate(cells):
        for bits in range(8):
            world.put(site, *(bool(bits >> index & 1) for index in range(3)))
            number = int(world.level.view.show(world.state))
            assert number == cell * 8 + bits
            numbers.add(number)
    assert len(numbers) == len(cells) * 8
    assert world.environment.spec.num_states == 9 * 8


def test_states_of_padded_levels_are_the_same() -> None:
    alone, among = TabularGridworlds(("dense",)), TabularGridworlds()
    views = [suite.level("tabular_dense").view.first_state for suite in (alone, among)]
    np.testing.assert_array_equal(views[0], views[1][:121])


def test_tabular_objects_keep_their_places_for_a_lifetime() -> None:
    suite = TabularGridworlds()
    environment, level = suite.environment("tabular_dense"), suite.level("tabular_dense")
    tasks = jax.vmap(environment.draw_task, (0, None))(jax.random.split(jax.random.key(0), 8), level)
    assert len({tuple(places) for places in np.asarray(tasks.places).tolist()}) == 8
    task = jax.tree.map(lambda x: x[0], tasks)
    states, _ = jax.vmap(environment.reset, (0, None))(jax.random.split(jax.random.key(1), 64), task)
    assert (np.asarray(states.places) == np.asarray(task.places)).all()
    assert len(set(np.asarray(states.agent).tolist())) > 20


def test_random_objects_are_placed_anew_in_each_episode() -> None:
    suite = RandomGridworlds()
    environment, level = suite.environment("random_small"), suite.level("random_small")
    task = environment.draw_task(jax.random.key(0), level)
    states, _ = jax.vmap(environment.reset, (0, None))(jax.random.split(jax.random.key(1), 64), task)
    assert len({tuple(places) for places in np.asarray(states.places).tolist()}) > 60


@pytest.mark.parametrize("tabular", [True, False])
def test_starts_are_uniform(tabular: bool) -> None:
    """Agent and objects are on each cell equally often, and never on the same one."""
    gridworld = Gridworld("uniform", 2, 3, ((1, 1.0, 0.0, 0.5), (1, -1.0, 0.0, 0.5)), walls=(".#.", "..."))
    suite = Gridworlds((gridworld,), tabular=tabular)
    environment, level = suite.environment("uniform"), suite.level("uniform")

    def start(key: Any) -> GridState:
        task_key, reset_key = jax.random.split(key)
        return environment.reset(reset_key, environment.draw_task(task_key, level))[0]

    states = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), 6000))
    sites = np.concatenate([np.asarray(states.agent)[:, None], np.asarray(states.places)], axis=1)
    arrangements, counts = np.unique(sites, axis=0, return_counts=True)
    assert len(arrangements) == 5 * 4 * 3
    assert all(len(set(arrangement)) == 3 for arrangement in arrangements.tolist())
    assert counts.min() > 60  # 100 on average
    assert counts.max() < 140


def test_random_objects_come_back_on_free_cells() -> None:
    world = World(Gridworld("return", 2, 3, ((3, 1.0, 0.0, 1.0), (1, -1.0, 0.0, 0.0))), tabular=False)
    world.state = world.state.replace(places=jnp.asarray([0, 1, 2, 3], jnp.int32))
    world.put(4, False, False, True, True)  # to 5; objects remain on 2 and 3: free are 0, 1, 4
    keys = jax.random.split(jax.random.key(1), 6000)
    states, _ = jax.jit(
        jax.vmap(lambda key: world.environment.step(key, world.task, world.state, jnp.asarray(RIGHT, jnp.int32)))
    )(keys)
    places = np.asarray(states.places)
    assert (places[:, 2:] == [2, 3]).all()
    arrangements, counts = np.unique(places[:, :2], axis=0, return_counts=True)
    assert sorted(map(tuple, arrangements.tolist())) == [(a, b) for a in (0, 1, 4) for b in (0, 1, 4) if a != b]
    assert counts.min() > 850  # 1,000 on average
    assert counts.max() < 1150


def test_boards_show_agent_walls_and_types_of_objects() -> None:
    gridworld = Gridworld("board", 2, 3, ((2, 1.0, 0.0, 0.0), (1, -1.0, 0.0, 0.0)), walls=("..#", "..."))
    suite = Gridworlds((gridworld,), tabular=False, rows=3, columns=4, object_types=3)
    environment, level = suite.environment("board"), suite.level("board")
    state = GridState(
        agent=jnp.asarray(2),
        places=jnp.asarray([0, 1, 4]),
        present=jnp.asarray([True, False, True]),
        time=jnp.zeros(()),
    )
    board = np.asarray(level.view.show(state))
    assert board.shape == environment.spec.observation_shape == (3, 4, 5)
    layers = {name: set(zip(*np.nonzero(board[..., layer]), strict=True)) for layer, name in enumerate("awxyz")}
    assert layers["a"] == {(1, 0)}
    assert layers["w"] == {(0, 2), (0, 3), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)}  # padding is wall
    assert layers["x"] == {(0, 0)}
    assert layers["y"] == {(1, 2)}
    assert layers["z"] == set()


@st.composite
def gridworlds(draw: Any) -> Gridworld:
    rows, columns = draw(st.integers(2, 4)), draw(st.integers(3, 4))
    probability = st.sampled_from([0.0, 0.3, 1.0])
    numbers = st.tuples(st.integers(1, 2), st.sampled_from([-1.0, 0.5]), probability, probability)
    objects = tuple(draw(st.lists(numbers, min_size=1, max_size=2)))
    cells = draw(st.lists(st.sampled_from(".....#"), min_size=rows * columns, max_size=rows * columns))
    walls = tuple("".join(cells[row * columns : (row + 1) * columns]) for row in range(rows))
    if "".join(walls).count(".") <= sum(count for count, *_ in objects):
        walls = ()
    return Gridworld("drawn", rows, columns, objects, max_steps=draw(st.integers(1, 20)), walls=walls)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(gridworlds(), st.integers(0, 99))
def test_whatever_happens_nothing_overlaps(gridworld: Gridworld, seed: int) -> None:
    suite = Gridworlds((gridworld,), tabular=False)
    batched, level = Batched(suite.environment("drawn"), 4), suite.level("drawn")

    @jax.jit
    def play(key: Any) -> tuple[GridState, TimeStep]:
        task = batched.environment.draw_task(key, level)
        actions = jax.random.randint(key, (40, 4), 0, 9)

        def step(state: GridState, inputs: Any) -> tuple[GridState, tuple[GridState, TimeStep]]:
            state, time_step = batched.step(inputs[0], task, state, inputs[1])
            return state, (state, time_step)

        return jax.lax.scan(step, batched.reset(key, task)[0], (jax.random.split(key, 40), actions))[1]

    states, time_steps = jax.tree.map(np.asarray, play(jax.random.key(seed)))
    for places, present in zip(states.places.reshape(160, -1), states.present.reshape(160, -1), strict=True):
        occupied = places[present].tolist()
        assert len(set(occupied)) == len(occupied)
        assert all(0 <= place < gridworld.floor.sum() for place in occupied)
    boards = time_steps.observation.reshape(160, *batched.environment.spec.observation_shape)
    assert (boards[..., 0].sum((1, 2)) == 1).all()
    assert (boards[..., 2:].sum((1, 2, 3)) == states.present.reshape(160, -1).sum(1)).all()
    assert (boards[..., 1] == ~gridworld.floor).all()
    assert not (boards[..., 1] & boards[..., [0, *range(2, boards.shape[-1])]].any(-1)).any()
    assert (states.time < gridworld.max_steps).all()
    assert ((time_steps.discount == 0) == time_steps.last).all()


def test_several_sizes_share_one_environment() -> None:
    small = Gridworld("train", 5, 5, ((1, 1.0, 1.0, 0.0), (1, -1.0, 1.0, 0.0)))
    large = Gridworld("held_out", 7, 7, ((1, 2.0, 1.0, 0.0), (2, -0.5, 1.0, 0.0)))
    for tabular in (True, False):
        suite = Gridworlds((small, large), tabular=tabular)
        assert suite.environment("train") == suite.environment("held_out")
        check_environment(suite.environment("train"), *map(suite.level, suite.tasks()))
    assert Gridworlds((small, large)).environment("train").spec.num_states == 49 * 8
    assert Gridworlds((small,), num_states=49 * 8).environment("train").spec.num_states == 49 * 8
    spec = Gridworlds((small,), tabular=False, rows=7, columns=7, object_types=3).environment("train").spec
    assert spec.observation_shape == (7, 7, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "at least 1 row"),
        ({"max_steps": 0}, "1 step"),
        ({"objects": ((1, 1.0, 1.5, 0.0),)}, r"probabilities in \[0, 1\]"),
        ({"objects": ((0, 1.0, 0.5, 0.0),)}, "at least one object"),
        ({"objects": ()}, "has no objects"),
        ({"objects": ((25, 1.0, 0.5, 0.0),)}, "25 floor cells, too few for 25 objects"),
        ({"walls": ("...",)}, "5 lines of 5 cells"),
        ({"walls": ("..x..",) * 5}, r"drawn with \['x'\]"),
    ],
)
def test_impossible_worlds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gridworld(**{"name": "impossible", **changes})


def test_impossible_suites_are_refused() -> None:
    world = Gridworld("world")
    for build, message in (
        (lambda: TabularGridworlds(("dens",)), "there is no task 'dens'.* Did you mean 'dense'"),
        (lambda: RandomGridworlds(()), "at least one task"),
        (lambda: Gridworlds((world, world)), "different names"),
        (lambda: Gridworlds(()), "must be given"),
        (lambda: Gridworlds((world,), num_states=10), "num_states=10 is less than the 100"),
        (lambda: Gridworlds((world,), rows=9), "rows has no meaning where states are observed"),
        (lambda: Gridworlds((world,), tabular=False, num_states=100), "num_states has no meaning where boards"),
        (lambda: Gridworlds((world,), tabular=False, object_types=1), "object_types=1 is less than the 2"),
        (lambda: Gridworlds((Gridworld("many", 6, 6, ((30, 1.0, 0.0, 0.0),)),)), "too many for a table"),
        (lambda: Gridworlds((world,)).level("word"), "Did you mean 'world'"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


TWO_SIZES = """
include 'rules/a2c.gin'
include 'agents/tabular.gin'
include 'setups/on_policy.gin'
include 'suites/gridworlds.gin'

OBJECTS = [(1, 1.0, 1, 0), (1, -1.0, 1, 0)]
Group.agents = 2
Gridworlds.levels = [@Gridworld(), @large/Gridworld()]
large/Gridworld.name = 'large'
large/Gridworld.rows = 7
large/Gridworld.walls = ['..#..', '.....', '..#..', '..#..', '..#..', '.....', '..#..']
"""


def test_a_few_lines_of_a_config_make_worlds_of_ones_own(tmp_path: Path) -> None:
    config = tmp_path / "two_sizes.gin"
    config.write_text(TWO_SIZES)
    (group,) = load(config, root=Experiment).experiment.groups
    objects = ((1, 1.0, 1.0, 0.0), (1, -1.0, 1.0, 0.0))
    small, large = group.suite.levels
    assert small == Gridworld("gridworld", 5, 5, objects, max_steps=100)
    assert (large.name, large.rows, large.columns, large.objects) == ("large", 7, 5, objects)
    assert large.floor.sum() == 7 * 5 - 5
    assert group.suite.environment("large").spec.num_states == 7 * 5 * 4
