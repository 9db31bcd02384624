"""Returns and advantages as functions of rewards, discounts and values.

Where an episode was cut off without its final observation the return is the step's own value, so that nothing leaks
from one episode into another.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framework.types import Array, RuleInputs


def _corrected_returns(reward: Array, discount: Array, values: Array, *, trace: Array, own: Array, cut: Array) -> Array:
    """G_t = r_t + d_t (v_{t+1} + c_{t+1} (G_{t+1} - own_{t+1})), and G_t = own_t where the episode was cut off.

    Args:
      reward: [T, B].
      discount: gamma, 0 where the episode terminated [T, B].
      values: what to bootstrap from [T+1, B].
      trace: c_t, how much of a later step's surprise reaches this one [T, B].
      own: what G_t is compared with: v_t or q_t(a_t) [T, B].
      cut: whether the transition leads into another episode [T, B].
    """

    def step(surprise: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, discount, next_value, trace, own, cut = inputs
        returns = jnp.where(cut, own, reward + discount * (next_value + surprise))
        return trace * (returns - own), returns

    inputs = (reward, discount, values[1:], trace, own, cut)
    _, returns = jax.lax.scan(step, jnp.zeros_like(values[0]), inputs, reverse=True)
    return returns


def lambda_returns(reward: Array, discount: Array, values: Array, lambda_: float | Array, cut: Array) -> Array:
    """TD(lambda) returns [T, B] of rewards, discounts [T, B] under values [T+1, B]."""
    trace = jnp.broadcast_to(jnp.asarray(lambda_, jnp.float32), reward.shape)
    return _corrected_returns(reward, discount, values, trace=trace, own=values[:-1], cut=cut)


def v_trace(
    reward: Array, discount: Array, values: Array, rho: Array, lambda_: float | Array, cut: Array
) -> tuple[Array, Array]:
    """V-trace targets and policy-gradient advantages [T, B], both ratios clipped at 1 (Espeholt et al., 2018).

    vs_t - v_t = clip(rho_t) (r_t + d_t v_{t+1} - v_t) + d_t lambda clip(rho_t) (vs_{t+1} - v_{t+1}).
    The advantage compares r_t + d_t (lambda vs_{t+1} + (1 - lambda) v_{t+1}) with v_t.
    """
    clipped = jnp.minimum(1.0, rho)
    error = jnp.where(cut, 0.0, clipped * (reward + discount * values[1:] - values[:-1]))
    decay = jnp.where(cut, 0.0, clipped * discount * lambda_)

    def step(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        error, decay = inputs
        total = error + decay * later
        return total, total

    _, errors = jax.lax.scan(step, jnp.zeros_like(values[0]), (error, decay), reverse=True)
    targets = values[:-1] + errors
    next_targets = jnp.concatenate([targets[1:], values[-1:]])
    estimate = reward + discount * (lambda_ * next_targets + (1.0 - lambda_) * values[1:])
    return targets, jnp.where(cut, 0.0, clipped * (estimate - values[:-1]))


def retrace(reward: Array, discount: Array, values: Array, taken: Array, trace: Array, cut: Array) -> Array:
    """Retrace returns of the actions taken [T, B] (Munos et al., 2016).

    Args:
      reward: [T, B].
      discount: gamma, 0 where the episode terminated [T, B].
      values: v(s) under the policy to be evaluated [T+1, B].
      taken: q(s_t, a_t) [T, B].
      trace: lambda min(1, pi / mu) of the actions taken [T, B].
      cut: whether the transition leads into another episode [T, B].
    """
    return _corrected_returns(reward, discount, values, trace=trace, own=taken, cut=cut)


def n_step_bootstraps(
    reward: Array, discount: Array, *, bootstrap: Array, own: Array, cut: Array, steps: int
) -> tuple[Array, Array, Array]:
    """What n-step returns G_t = R_t + D_t V_t are made of: rewards, discounts and the place that they bootstrap from.

    G_t = r_t + d_t (r_{t+1} + d_{t+1} (... V(s_{t+n}))), with fewer rewards where the trajectory ends earlier.

    Args:
      reward: [T, B].
      discount: gamma, 0 where the episode terminated [T, B].
      bootstrap: what is predicted of the next state: a value, or a distribution's outputs [T, B, ...].
      own: the same of the state itself, which stands in where an episode was cut off [T, B, ...].
      cut: whether the transition leads into another episode [T, B].
      steps: rewards before bootstrapping, n.

    Returns:
      The sum of rewards R and the product of discounts D [T, B], and what is bootstrapped from [T, B, ...].
    """
    cut_source = cut.reshape(cut.shape + (1,) * (own.ndim - cut.ndim))
    first = rewards, discounts, source = (
        jnp.where(cut, 0.0, reward),
        jnp.where(cut, 1.0, discount),
        jnp.where(cut_source, own, bootstrap),
    )
    for _ in range(min(steps, reward.shape[0]) - 1):
        rewards, discounts, source = (
            first[0].at[:-1].add(jnp.where(cut, 0.0, discount)[:-1] * rewards[1:]),
            first[1].at[:-1].multiply(jnp.where(cut[:-1], 1.0, discounts[1:])),
            first[2].at[:-1].set(jnp.where(cut_source[:-1], own[:-1], source[1:])),
        )
    return rewards, discounts, source


def n_step_returns(reward: Array, discount: Array, values: Array, steps: int, cut: Array) -> Array:
    """n-step returns [T, B] of rewards, discounts [T, B] under values [T+1, B]; see `n_step_bootstraps`."""
    rewards, discounts, source = n_step_bootstraps(
        reward, discount, bootstrap=values[1:], own=values[:-1], cut=cut, steps=steps
    )
    return rewards + discounts * source


def q_lambda(reward: Array, discount: Array, values: Array, taken: Array, trace: Array, cut: Array) -> Array:
    """Q(lambda) returns of the actions taken [T, B]: TD(lambda) returns under the values of greedy actions.

    Args:
      reward: [T, B].
      discount: gamma, 0 where the episode terminated [T, B].
      values: of the greedy actions [T+1, B].
      taken: q(s_t, a_t) [T, B].
      trace: lambda, where a later return counts at all [T, B].
      cut: whether the transition leads into another episode [T, B].
    """
    returns = _corrected_returns(reward, discount, values, trace=trace, own=values[:-1], cut=cut)
    return jnp.where(cut, taken, returns)


def without_gradient(inputs: RuleInputs) -> RuleInputs:
    """The inputs with constant outputs: only learned discounts and decays receive a gradient through estimates."""
    outputs, target_outputs = jax.lax.stop_gradient((inputs.outputs, inputs.target_outputs))
    return inputs.replace(outputs=outputs, target_outputs=target_outputs)
