"""One agent's part of a meta-step: it collects with the rule as it is, and is asked where the rule should move."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from framework import keys
from framework.discovery import Discovery
from framework.inner_loop import InnerLoop
from framework.keys import Role
from framework.lifecycle import Lifecycle
from framework.regularization import regularization, regularizer_means, seen_of_validation
from framework.statistics import mean_of, merged
from framework.transforms import weighted_mean
from framework.trees import clip_factor, global_norm, largest_element, select
from framework.types import (
    AgentState,
    Array,
    Collected,
    Experience,
    LearnerState,
    Mean,
    Params,
    PyTree,
    Trajectory,
    Window,
)
from framework.update_rule import POLICY


@dataclasses.dataclass(frozen=True)
class MetaStep:
    """Collect, then differentiate: pure functions of one agent's state, which a population maps over its agents.

    Attributes:
      lifecycle: the agent's.
    """

    lifecycle: Lifecycle

    @property
    def discovery(self) -> Discovery:
        """How the rule is judged."""
        if self.lifecycle.discovery is None:
            raise ValueError("the rule is frozen: there is nothing to discover")
        return self.lifecycle.discovery

    @functools.cached_property
    def inner_loop(self) -> InnerLoop:
        """The window's updates, for the meta-gradient to flow through."""
        return InnerLoop(self.lifecycle.learner, self.discovery.regularizers_on("updates"))

    def replay_window(
        self, meta_params: Params, agent: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, LearnerState, LearnerState]:
        """Makes the window's kept updates again with the newer rule.

        Returns:
          The agent as it is after them; its learner at the window's start, and after the window's first S updates, as
          far as these are among the kept ones.
        """
        window, discovery = agent.window, self.discovery
        if not discovery.kept_updates:
            return agent, agent.learner, agent.learner

        def update(carry: tuple[LearnerState, LearnerState], given: tuple[Array, Trajectory, Array, Array]) -> tuple:
            state, next_start = carry
            index, batch, key, valid = given
            after, _ = self.lifecycle.learner.update(meta_params, state, batch, key)
            state = select(valid, after, state)
            return (state, self._at_stride(index, state, next_start)), None

        kept = discovery.kept_updates
        given = jnp.arange(kept), window.trajectories, self._update_keys(root, counter - kept, kept), window.valid
        (state, next_start), _ = jax.lax.scan(update, (window.start, window.start), given)
        return agent.replace(learner=state), window.start, next_start

    def _at_stride(self, index: Array, state: LearnerState, otherwise: LearnerState) -> LearnerState:
        """The state, if it is the one after the window's first S updates."""
        return select(self.discovery.begins_next_window(index), state, otherwise)

    def _update_keys(self, root: Array, first: Array, count: int) -> Array:
        """Keys of the minibatches of successive updates [count]."""
        counters = first + jnp.arange(count)
        return jax.vmap(lambda counter: keys.step_key(root, counter, Role.MINIBATCHES))(counters)

    def collect(
        self, meta_params: Params, agent: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, Collected, dict[str, Mean]]:
        """S new updates after the window's kept ones, and a validation trajectory of the final parameters."""
        agent, start, next_start = self.replay_window(meta_params, agent, root, counter)

        def update(carry: tuple[AgentState, LearnerState], index: Array) -> tuple[Any, Any]:
            agent, next_start = carry
            agent, out = self.lifecycle.advance(meta_params, agent, root, counter + index)
            return (agent, self._new_at_stride(index, agent.learner, next_start)), out

        indices = jnp.arange(self.discovery.new_updates)
        (agent, next_start), (batches, means) = jax.lax.scan(update, (agent, next_start), indices)
        key = keys.step_key(root, counter, Role.VALIDATION)
        actor, validation = self.lifecycle.act(agent, agent.actor, key, self.lifecycle.validation_length)
        return self.collected(
            agent.replace(actor=actor), (start, next_start), batches, validation, means, root=root, counter=counter
        )

    def _new_at_stride(self, index: Array, state: LearnerState, otherwise: LearnerState) -> LearnerState:
        """The state, if it follows on the window's first S updates; ``index`` counts the new ones."""
        kept = self.discovery.kept_updates
        return self._at_stride(index + kept, state, otherwise) if kept else otherwise

    def collected(
        self,
        agent: AgentState,
        starts: tuple[LearnerState, LearnerState],
        batches: Trajectory,
        validation: Trajectory,
        means: dict[str, Mean],
        *,
        root: Array,
        counter: Array,
    ) -> tuple[AgentState, Collected, dict[str, Mean]]:
        """What a meta-gradient is computed from, after acting and learning.

        Args:
          agent: after its validation trajectory.
          starts: its learner at this window's start and at the next one's.
          batches: what the new updates learned from [S, T, B, ...].
          validation: the validation trajectory.
          means: of each update [S].
          root: as for `collect`.
          counter: as for `collect`.
        """
        agent, lived = self.lifecycle.lived(agent, validation)
        means = jax.tree.map(lambda x: x.sum(0), means)
        means |= merged({name: means[name] for name in lived}, lived)
        experience = self._experience(agent, batches, root, counter)
        return agent, Collected(*starts, experience, validation), means

    def _experience(self, agent: AgentState, batches: Trajectory, root: Array, counter: Array) -> Experience:
        """What all N updates of the window learned from."""
        kept, count = self.discovery.kept_updates, self.discovery.inner_updates
        update_keys = self._update_keys(root, counter - kept, count)
        if not kept:
            return Experience(trajectories=batches, keys=update_keys)
        window = agent.window
        trajectories = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), window.trajectories, batches)
        valid = jnp.concatenate([window.valid, jnp.ones(self.discovery.new_updates, bool)])
        return Experience(trajectories=trajectories, keys=update_keys, valid=valid)

    def loss(
        self,
        meta_params: Params,
        start: LearnerState,
        experience: Experience,
        validation: Trajectory,
        objective: PyTree,
    ) -> tuple[Array, tuple[Params, dict[str, Array]]]:
        """The meta-objective of the parameters that the window's updates lead to, with its regularizers [].

        Returns:
          The loss; the final parameters and numbers to log.
        """
        params, of_updates = self.inner_loop(meta_params, start, experience)
        loss, numbers = self.judge(params, validation, objective, of_updates)
        return loss, (params, numbers)

    def judge(
        self, params: Params, validation: Trajectory, objective: PyTree, of_updates: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The meta-loss of parameters [], and numbers to log.

        Args:
          params: that the rule led to.
          validation: a trajectory of theirs.
          objective: what the meta-objective keeps of the agent.
          of_updates: what regularizers say of the updates that led there [].
        """
        seen = validation.observation, validation.last, validation.carry
        outputs = self.lifecycle.network.unroll(params, *seen, validation.action)
        discovery = self.discovery
        per_step, numbers = discovery.objective(objective, validation, outputs[POLICY])
        judged = weighted_mean(per_step, validation.weight)
        regularizers, of_validation = discovery.regularizers_on("validation"), seen_of_validation(outputs, validation)
        on_validation = regularization(regularizers, of_validation)
        loss = judged + on_validation + of_updates
        numbers = {f"objective/{name}": value for name, value in numbers.items()} | {
            "meta/loss": loss,
            "meta/objective": judged,
            "meta/regularization_on_validation": on_validation,
            "meta/regularization_on_updates": of_updates,
        }
        return loss, numbers | regularizer_means(regularizers, of_validation)

    def __call__(
        self, meta_params: Params, agent: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, Params, Array, dict[str, Mean]]:
        """One agent's part of a meta-step: collect, then differentiate.

        Returns:
          The agent; its meta-gradient, limited in norm and zero where the agent is lost; whether it is sound [];
          running means to log.
        """
        agent, collected, means = self.collect(meta_params, agent, root, counter)
        return self.differentiate(meta_params, agent, collected, means)

    def differentiate(
        self, meta_params: Params, agent: AgentState, collected: Collected, means: dict[str, Mean]
    ) -> tuple[AgentState, Params, Array, dict[str, Mean]]:
        """The meta-gradient from what was collected; see `__call__`."""
        discovery = self.discovery
        start, experience = collected.start, collected.experience
        given = jax.lax.stop_gradient((start, experience, collected.validation, agent.objective))
        (_, (params, numbers)), gradient = jax.value_and_grad(self.loss, has_aux=True)(meta_params, *given)
        norm = global_norm(gradient)
        largest = largest_element(agent.learner.params)
        sound = jnp.isfinite(norm) & (largest <= discovery.max_parameter)  # a NaN is not below any limit
        limit = 1.0 if discovery.max_gradient_norm is None else clip_factor(norm, discovery.max_gradient_norm)
        gradient = jax.tree.map(lambda g: jnp.where(sound, g * limit, 0.0), gradient)
        error = replay_error(start.params, agent.learner.params, params)
        weight = sound.astype(jnp.float32)
        means = {name: _unless_lost(mean, sound) for name, mean in means.items()}
        means |= {name: mean_of(value, weight) for name, value in numbers.items()} | of_gradient(norm, error, weight)
        if discovery.kept_updates:
            new = discovery.new_updates
            later = jax.tree.map(lambda x: x[new:], (experience.trajectories, experience.valid))
            agent = agent.replace(window=Window(collected.next_start, *later))
        return agent, gradient, sound, means


def _unless_lost(mean: Mean, sound: Array) -> Mean:
    """A mean of one agent; where the agent is lost and the mean too, it has seen nothing."""
    counts = sound | jnp.isfinite(mean.total)
    return jax.tree.map(lambda x: jnp.where(counts, x, 0.0), mean)


def of_gradient(norm: Array, error: Array, weight: Array) -> dict[str, Mean]:
    """What is logged of a meta-gradient.

    Args:
      norm: its own.
      error: how far the differentiated updates end from those made.
      weight: 1, or 0 where the agent is lost.
    """
    return {
        "meta/gradient_norm": mean_of(norm, weight),
        "meta/replay_error": mean_of(error, weight),
        "agents/lost_share": mean_of(1.0 - weight),
    }


def replay_error(start: Params, collected: Params, replayed: Params) -> Array:
    """How far apart two ways of making the same updates end, as a share of the way made [].

    A way that is tiny beside the parameters counts as 1e-4 of them: rounding alone parts the ends by 1e-7.
    """
    apart = global_norm(jax.tree.map(jnp.subtract, collected, replayed))
    way = global_norm(jax.tree.map(jnp.subtract, collected, start))
    return apart / jnp.maximum(way, 1e-4 * global_norm(collected) + 1e-12)
