"""A prediction on every cell of a grid world, as an agent learns."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from components.suites.gridworld_environment import MOVES, GridLevel, GridState, GridTask, GridworldEnvironment
from experiments.analyses.findings import Findings, parameter
from experiments.analyses.playing import refuse_without_predictions
from experiments.analyses.restoring import RestoredRun
from framework import keys
from framework.errors import UserError, closest, did_you_mean
from framework.group import Group
from framework.keys import Role
from framework.lifecycle import Lifecycle
from framework.types import AgentState, Array, Params, Place
from framework.update_rule import UpdateRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOSENESS = 0.9
"""What each step to the next rewarding object multiplies a cell's closeness by (chosen)."""


def places_of_sites(level: GridLevel) -> np.ndarray:
    """Row and column of every site, from which sites are neighbours of which [S, 2] int.

    Raises:
      UserError: walls part the grid.
    """
    neighbours, count = np.asarray(level.neighbours), int(level.num_sites)
    found, ahead = {0: (0, 0)}, collections.deque([0])
    while ahead:
        site = ahead.popleft()
        for action, (down, right) in enumerate(MOVES):
            other = int(neighbours[site, action])
            if other not in found:
                found[other] = found[site][0] + down, found[site][1] + right
                ahead.append(other)
    if len(found) < count:
        raise UserError("walls part the grid, and its map cannot be drawn: choose another task by --task")
    places = np.array([found[site] for site in range(count)])
    return places - places.min(0)


def distances(level: GridLevel, goals: np.ndarray) -> np.ndarray:
    """Moves from every site to the nearest of some sites [S]; infinite where none is to be reached."""
    neighbours, count = np.asarray(level.neighbours), int(level.num_sites)
    found = np.full(count, np.inf)
    found[goals] = 0
    for _ in range(count):
        found = np.minimum(found, 1 + found[neighbours[:count]].min(-1))
    return found


def observations_of_sites(environment: GridworldEnvironment, task: GridTask, key: Array) -> tuple[Array, GridState]:
    """What an agent sees on each site [S, ...] while all objects but one that lies there are present; the states."""
    state, _ = environment.reset(key, task)
    level = task.level

    def at(site: Array) -> GridState:
        return state.replace(agent=site, present=level.exists & (state.places != site))

    states = jax.vmap(at)(jnp.arange(int(level.num_sites)))
    return jax.vmap(level.view.show)(states), states


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An agent after some updates.

    Attributes:
      updates: how many.
      prediction: probabilities of its categories on each site [S, K].
      policy: probabilities of actions on each site [S, A].
      episode_return: mean of the episodes that ended since the last snapshot; NaN if none did.
    """

    updates: int
    prediction: np.ndarray
    policy: np.ndarray
    episode_return: float


@dataclasses.dataclass(frozen=True)
class Life:
    """A fresh agent that learns with a frozen rule, and its outputs on given observations meanwhile.

    Attributes:
      lifecycle: what the agent does.
      head: the prediction that is looked at.
    """

    lifecycle: Lifecycle
    head: str

    @functools.partial(jax.jit, static_argnums=0)
    def birth(self, root: Array, task_index: Array, arm: Array) -> AgentState:
        """The agent before its first update."""
        zero = jnp.zeros((), jnp.int32)
        place = Place(task_index=task_index, arm=arm, births=zero, share=jnp.ones(()))
        return self.lifecycle.birth(keys.step_key(root, zero, Role.BIRTH), place)

    @functools.partial(jax.jit, static_argnums=0)
    def live(
        self, meta_params: Params, agent: AgentState, root: Array, first: Array, end: Array
    ) -> tuple[AgentState, Array, Array]:
        """The agent after the updates [first, end), with the sum and the number of the returns meanwhile."""

        def update(counter: Array, carry: tuple[AgentState, Array, Array]) -> tuple[AgentState, Array, Array]:
            agent, total, count = carry
            agent, (_, means) = self.lifecycle.advance(meta_params, agent, root, counter)
            episodes = means["episode/return"]
            return agent, total + jnp.where(episodes.weight > 0, episodes.total, 0.0), count + episodes.weight

        zero = jnp.zeros(())
        return jax.lax.fori_loop(first, end, update, (agent, zero, zero))

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(self, agent: AgentState, observations: Array) -> tuple[Array, Array]:
        """Prediction and policy on each of some observations, as probabilities [S, K], [S, A]."""
        network, rule = self.lifecycle.network, self.lifecycle.rule
        sites, learner = observations.shape[0], agent.learner
        rows = jnp.stack([observations, observations])  # The network's unrolls have a row for the last observation.
        last = jnp.zeros((1, sites), bool)
        found = network.unroll(learner.params, rows, last, network.initial_carry(sites))
        hyperparameters = self.lifecycle.learner.hyperparameters(learner)
        policy = rule.policy(found[rule.acting_head][0], hyperparameters)
        return jax.nn.softmax(found[self.head][0]), jax.nn.softmax(policy)


@dataclasses.dataclass(frozen=True)
class Map:
    """A prediction over a grid world while a fresh agent learns with the run's rule."""

    title: ClassVar[str] = "A prediction over a grid world, as an agent learns"

    task: str | None = parameter(None, "The grid world; the group's first by default.")
    updates: int = parameter(150, "Updates that the agent makes.")
    snapshots: int = parameter(5, "Pictures, the first before any update, the others ever further apart.")
    seed: int = parameter(0, "Of the agent and its world.")

    def __post_init__(self) -> None:
        if self.updates < 1 or self.snapshots < 2:
            raise ValueError(f"updates must be at least 1 and snapshots 2, got {self.updates} and {self.snapshots}")

    def __call__(self, run: RestoredRun) -> Findings:
        lifecycle, environment = self._lifecycle(run)
        head = self._head(run.rule)
        task_index = self._task_index(lifecycle)
        root = keys.agent_roots(keys.root_key(self.seed), run.group, 1)[0]
        life = Life(lifecycle, head)
        arm = self._arm(run, task_index, root)
        agent = life.birth(root, jnp.asarray(task_index, jnp.int32), arm)
        observations, states = observations_of_sites(environment, agent.life.task, keys.role_key(root, Role.RESET))
        found = self._snapshots(life, run.meta_params, agent, root, observations)
        return self._findings(run, lifecycle.tasks[task_index], head, agent, found, np.asarray(states.places[0]))

    def _lifecycle(self, run: RestoredRun) -> tuple[Lifecycle, GridworldEnvironment]:
        group: Group = run.population.lifecycle.group
        lifecycle = Lifecycle(run.rule, dataclasses.replace(group, agents=1, chunk=None))
        environment = lifecycle.environment
        if not isinstance(environment, GridworldEnvironment):
            raise UserError(
                f"a map needs a grid world, and the agents of {run.name} live in {type(environment).__name__}: analyse "
                "a run such as lpg_small or lpg_gridworlds"
            )
        return lifecycle, environment

    def _head(self, rule: UpdateRule) -> str:
        found = [target.head for target in refuse_without_predictions(rule) if not target.action_conditional]
        if not found:
            raise UserError("the rule's predictions are all of actions, and a map shows one of states: such as y")
        return found[0]

    def _task_index(self, lifecycle: Lifecycle) -> int:
        if self.task is None:
            return 0
        if self.task not in lifecycle.tasks:
            known = lifecycle.tasks
            guess = did_you_mean(closest(self.task, known)) or f" There are: {', '.join(known)}."
            raise UserError(f"the group has no task '{self.task}'.{guess}")
        return lifecycle.tasks.index(self.task)

    def _arm(self, run: RestoredRun, task_index: int, root: Array) -> Array:
        """The bandit's choice of hyperparameters, as for any newborn agent of the run."""
        bandit = run.population.lifecycle.group.bandit
        if bandit is None:
            return jnp.zeros((), jnp.int32)
        known = run.state.groups[run.group].bandit
        return bandit.choose(known, keys.role_key(root, Role.PLACE), jnp.asarray(task_index, jnp.int32))

    def _snapshots(
        self, life: Life, meta_params: Params, agent: AgentState, root: Array, observations: Array
    ) -> list[Snapshot]:
        found, total, count = [], 0.0, 0.0
        marks = self.marks
        for mark, following in zip(marks, [*marks[1:], None], strict=True):
            prediction, policy = life.outputs(agent, observations)
            mean = total / count if count else np.nan
            found.append(Snapshot(mark, np.asarray(prediction), np.asarray(policy), mean))
            if following is not None:
                agent, returns, episodes = life.live(
                    meta_params, agent, root, jnp.asarray(mark), jnp.asarray(following)
                )
                total, count = float(returns), float(episodes)
        return found

    @property
    def marks(self) -> list[int]:
        """Numbers of updates at which the agent is looked at."""
        spread = np.geomspace(max(1, self.updates // 2 ** (2 * (self.snapshots - 2))), self.updates, self.snapshots - 1)
        return [0, *dict.fromkeys(round(float(mark)) for mark in spread)]

    def _findings(
        self, run: RestoredRun, task: str, head: str, agent: AgentState, found: list[Snapshot], objects: np.ndarray
    ) -> Findings:
        level = agent.life.task.level
        component, explained = principal_component(found)
        rewards, exist = np.asarray(level.reward), np.asarray(level.exists)
        good = objects[exist & (rewards > 0)]
        closeness = CLOSENESS ** distances(level, good) if good.size else np.zeros(int(level.num_sites))
        correlations = [_correlation(values, closeness) for values in component]
        if (correlations[-1] or 0.0) < 0:  # A component's sign means nothing: high shall be near what is rewarded.
            component, correlations = -component, [None if c is None else -c for c in correlations]
        places = places_of_sites(level)
        chosen = {name: float(value) for name, value in agent.learner.hyperparameters.items()}
        numbers = {
            "source": run.described,
            "task": task,
            "head": head,
            "hyperparameters": chosen,
            "explained_variance": explained,
            "places": places.tolist(),
            "objects": [
                {"place": places[site].tolist(), "reward": float(reward)}
                for site, reward in zip(objects[exist], rewards[exist], strict=True)
            ],
            "snapshots": [
                {
                    "updates": snapshot.updates,
                    "episode_return": snapshot.episode_return,
                    "component": values.tolist(),
                    "correlation_with_closeness": correlation,
                    "policy": snapshot.policy.tolist(),
                }
                for snapshot, values, correlation in zip(found, component, correlations, strict=True)
            ],
        }
        return Findings(
            numbers=numbers,
            paragraph=(
                f"A fresh agent learns on {task} with the rule of {run.described}, frozen ({_listed(chosen)}). After "
                f"{', '.join(str(s.updates) for s in found)} updates its {head} is computed on every cell, with "
                "all objects present. Colours show the first principal component of how its probabilities differ from "
                f"their mean over cells, one for all pictures, which explains {explained:.0%} of the variance; its "
                f"sign is chosen. Correlation over cells with {CLOSENESS}^(moves to the nearest object with a "
                "positive reward): "
                f"{', '.join('none' if c is None else f'{c:.2f}' for c in correlations)}. Mean return of the episodes "
                f"between the pictures: {', '.join(f'{s.episode_return:.3g}' for s in found[1:])}. Arrows: the most "
                "likely move. The pictures are of an agent that learns anew, so that they do not depend on which "
                "checkpoints a run has kept."
            ),
            draw=lambda figure: _draw(figure, numbers),
        )


def principal_component(found: list[Snapshot]) -> tuple[np.ndarray, float]:
    """First principal component of how predictions differ between cells [snapshots, S], and its share of the variance.

    The mean over cells is taken off each snapshot: what all cells have in common moves most, and tells nothing of any.
    """
    every = np.stack([snapshot.prediction for snapshot in found]).astype(np.float64)
    centred = (every - every.mean(1, keepdims=True)).reshape(-1, every.shape[-1])
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    variance = np.square(singular)
    share = float(variance[0] / variance.sum()) if variance.sum() > 0 else 0.0
    return (left[:, 0] * singular[0]).reshape(every.shape[:2]), share


def _correlation(values: np.ndarray, others: np.ndarray) -> float | None:
    """Pearson's; ``None`` where one of both is the same everywhere."""
    if values.std() < 1e-9 or others.std() < 1e-9:
        return None
    return float(np.corrcoef(values, others)[0, 1])


def _listed(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in numbers.items()) or "no hyperparameters"


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    snapshots, places = numbers["snapshots"], np.array(numbers["places"])
    rows, columns = places.max(0) + 1
    figure.set_size_inches(2.6 * len(snapshots) + 0.9, 2.6 * rows / columns + 0.7)
    objects = [thing["place"] for thing in numbers["objects"]]
    most = max(abs(value) for snapshot in snapshots for value in snapshot["component"]) or 1.0
    every = []
    for index, snapshot in enumerate(snapshots):
        axes = figure.add_subplot(1, len(snapshots), index + 1)
        every.append(axes)
        grid = np.full((rows, columns), np.nan)
        grid[tuple(places.T)] = snapshot["component"]
        drawn = axes.imshow(grid, cmap="RdBu", vmin=-most, vmax=most)
        if snapshot["updates"]:
            free = ~np.isin(places @ (columns, 1), np.array(objects) @ (columns, 1))
            down, right = np.array(MOVES)[np.array(snapshot["policy"])[free].argmax(-1)].T
            axes.quiver(
                places[free, 1],
                places[free, 0],
                right,
                -down,
                scale=2.6 * columns,
                width=0.012,
                color="0.25",
                pivot="mid",
            )
        for thing in numbers["objects"]:
            row, column = thing["place"]
            axes.text(
                column,
                row,
                "+" if thing["reward"] > 0 else "\N{MINUS SIGN}",
                ha="center",
                va="center",
                fontsize=15,
                weight="bold",
            )
        returned = snapshot["episode_return"]
        told = "" if returned is None or not np.isfinite(returned) else f"\nreturn {returned:.2f}"
        axes.set_title(f"{snapshot['updates']} updates{told}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_facecolor("0.3")
    figure.colorbar(drawn, ax=every, label=f"first component of {numbers['head']}", shrink=0.8)
