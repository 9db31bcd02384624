"""Moving about a grid, collecting objects: the dynamics of the grid worlds of LPG (Oh et al. 2020).

Where the paper is silent the choice is ours:

* a step: move, collect, terminate with the object's probability, then each object that was absent before the step
  comes back with its probability; tabular: to its own cell, random: to a free one;
* an agent starts every episode on a random floor cell without an object; all objects are there;
* a move into a wall or off the grid stays; a diagonal move needs nothing but its goal to be floor;
* the limit of steps terminates (discount 0); cells that pad a smaller grid look and act like walls.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from framework.specs import EnvironmentSpec
from framework.types import Array, TimeStep

MOVES = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
"""Rows and columns that an action moves by, the nine cells of a neighbourhood in reading order: action 4 stays."""

AGENT, WALL, FIRST_OBJECT = 0, 1, 2
"""Layers of an observed board; every type of object has one."""

NOWHERE = np.iinfo(np.int32).max
"""A site behind all others: where objects are that are not there."""


class GridState(struct.PyTreeNode):
    """Sites of the agent [] and of the objects [M], which objects are there [M], and steps made [] (int32, bool)."""

    agent: Array
    places: Array
    present: Array
    time: Array


class StateTable(struct.PyTreeNode):
    """Numbers the states: own cell x 2^objects + presence bits.

    Attributes:
      first_state: state of each site without any object [S] int32.
    """

    first_state: Array

    def show(self, state: GridState) -> Array:
        """The number of a state [] int32."""
        bits = jnp.where(state.present, 1 << jnp.arange(state.present.size), 0)
        return self.first_state[state.agent] + jnp.sum(bits)


class Board(struct.PyTreeNode):
    """Shows agent, walls and objects, each on a layer of its own.

    Attributes:
      mark: place of each site on the flattened board, in the first layer [S] int32.
      layer: of each object [M] int32.
      walls: the board with nothing but walls [R, C, 2 + object types] bool.
    """

    mark: Array
    layer: Array
    walls: Array

    def show(self, state: GridState) -> Array:
        """The board of a state [R, C, 2 + object types] bool."""
        marks = jnp.where(state.present, self.mark[state.places] + self.layer, NOWHERE)
        board = self.walls.reshape(-1).at[marks].set(True, mode="drop")
        return board.at[self.mark[state.agent] + AGENT].set(True).reshape(self.walls.shape)


class GridLevel(struct.PyTreeNode):
    """A grid world as arrays. Floor cells are numbered as *sites*, in reading order; walls have no number.

    Attributes:
      neighbours: site reached by each action from each site [S, A] int32.
      num_sites: number of sites; the rest of S is padding [] int32.
      exists: whether an object is one or padding [M] bool.
      reward, termination, respawn: for collecting an object, and its two probabilities [M].
      max_steps: of an episode [] int32.
      view: what is observed of a state.
    """

    neighbours: Array
    num_sites: Array
    exists: Array
    reward: Array
    termination: Array
    respawn: Array
    max_steps: Array
    view: StateTable | Board


class GridTask(struct.PyTreeNode):
    """A level, and the objects' sites in a lifetime [M] int32; ``None`` where every episode draws its own."""

    level: GridLevel
    places: Array | None


@dataclasses.dataclass(frozen=True)
class GridworldEnvironment:
    """Grid worlds padded to the same sizes.

    The observation is either the number of a state, and then the objects' places last a lifetime; or a binary board
    (agent, walls, object types), and then every episode draws the places anew.

    Attributes:
      num_sites, num_objects: S and M.
      num_states: size of the table of states; ``None`` for boards.
      board: shape of the observed board; ``None`` for states.
    """

    num_sites: int
    num_objects: int
    num_states: int | None
    board: tuple[int, int, int] | None

    @property
    def spec(self) -> EnvironmentSpec:
        if self.board is None:
            return EnvironmentSpec((), len(MOVES), observation_dtype="int32", num_states=self.num_states)
        return EnvironmentSpec(self.board, len(MOVES), observation_dtype="bool")

    def draw_task(self, key: Array, level: GridLevel) -> GridTask:
        if self.board is not None:
            return GridTask(level, places=None)
        return GridTask(level, places=_draw_places(jax.random.uniform(key, (self.num_objects,)), level))

    def reset(self, key: Array, task: GridTask) -> tuple[GridState, Array]:
        level, places = task.level, task.places
        if places is None:
            draws = jax.random.uniform(key, (self.num_objects + 1,))
            places = _draw_places(draws[1:], level)
        else:
            draws = jax.random.uniform(key, (1,))
        occupied = _ascending(jnp.where(level.exists, places, NOWHERE))
        state = GridState(
            agent=_free_site(draws[0], occupied, level.num_sites),
            places=places,
            present=level.exists,
            time=jnp.zeros((), jnp.int32),
        )
        return state, level.view.show(state)

    def step(self, key: Array, task: GridTask, state: GridState, action: Array) -> tuple[GridState, TimeStep]:
        level, anew = task.level, task.places is None
        draws = jax.random.uniform(key, (1 + self.num_objects * (2 if anew else 1),))
        agent = level.neighbours[state.agent, action]
        touched = state.present & (state.places == agent)
        terminated = draws[0] < jnp.sum(jnp.where(touched, level.termination, 0.0))
        respawned = ~state.present & (draws[1 : self.num_objects + 1] < level.respawn)
        present, places = state.present & ~touched, state.places
        if anew:
            occupied = _insert(agent, _ascending(jnp.where(present, places, NOWHERE)))
            places = _move(places, respawned, draws[self.num_objects + 1 :], occupied, level.num_sites)
        state = GridState(agent=agent, places=places, present=present | respawned, time=state.time + 1)
        last = terminated | (state.time >= level.max_steps)
        return state, TimeStep(
            observation=level.view.show(state),
            reward=jnp.sum(jnp.where(touched, level.reward, 0.0)),
            discount=jnp.where(last, 0.0, 1.0),
            last=last,
        )


def _draw_places(draws: Array, level: GridLevel) -> Array:
    """Distinct random sites for all objects, from uniform numbers [M]; padding is nowhere."""
    nowhere = jnp.full(draws.shape, NOWHERE)
    return _move(nowhere, level.exists, draws, [], level.num_sites)


def _move(places: Array, moved: Array, draws: Array, occupied: list[Array], num_sites: Array) -> Array:
    """Places [M] of which some are drawn anew, one after another, from the sites that are not occupied."""
    sites = []
    for index in range(places.size):
        free = _free_site(draws[index], occupied, num_sites)
        sites.append(jnp.where(moved[index], free, places[index]))
        occupied = _insert(jnp.where(moved[index], free, NOWHERE), occupied)
    return jnp.stack(sites)


def _free_site(draw: Array, occupied: list[Array], num_sites: Array) -> Array:
    """A random site that is not occupied, from a uniform number [] and the occupied sites in ascending order.

    Numbered without the occupied ones, the free sites can be drawn from at once; each occupied site that is passed
    moves the number on by one.
    """
    num_free = num_sites - sum((site < num_sites).astype(jnp.int32) for site in occupied)
    drawn = jnp.floor(draw * num_free).astype(jnp.int32)
    for site in occupied:
        drawn = drawn + (site <= drawn)
    return drawn


def _ascending(sites: Array) -> list[Array]:
    ordered: list[Array] = []
    for index in range(sites.size):
        ordered = _insert(sites[index], ordered)
    return ordered


def _insert(site: Array, ascending: list[Array]) -> list[Array]:
    """An ascending list with one more site."""
    result = []
    for other in ascending:
        result.append(jnp.minimum(site, other))
        site = jnp.maximum(site, other)
    return [*result, site]
