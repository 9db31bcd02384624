"""Classic control on the device: CartPole-v1 and Acrobot-v1, with Gymnasium's dynamics in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from components.suites.without_levels import WithoutLevels
from framework.errors import closest, did_you_mean
from framework.registry import component
from framework.specs import EnvironmentSpec
from framework.types import Array, PyTree, TimeStep

LIMIT = 500
"""Steps that Gymnasium cuts an episode of either task off after."""

GRAVITY = 9.8
"""In m / s^2."""


class ControlState(struct.PyTreeNode):
    """Positions, or angles in radians, and velocities of the joints [4] float32, and steps made [] int32."""

    joints: Array
    time: Array


def _after(environment: CartPole | Acrobot, state: ControlState, joints: Array, reward: Array, fell: Array) -> tuple:
    """State and time step after joints have moved; the limit of steps ends an episode without terminating it."""
    state = ControlState(joints=joints, time=state.time + 1)
    return state, TimeStep(
        observation=environment.observe(joints),
        reward=reward,
        discount=jnp.where(fell, 0.0, 1.0),
        last=fell | (state.time >= environment.max_steps),
    )


@dataclasses.dataclass(frozen=True)
class CartPole:
    """A pole on a cart, pushed left or right, is to be kept upright (Barto, Sutton and Anderson, 1983).

    Each step is rewarded with 1. The episode terminates where the cart leaves +-2.4 m or the pole +-12 degrees.

    Attributes:
      max_steps: of an episode, which is then cut off.
    """

    max_steps: int = LIMIT

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(observation_shape=(4,), num_actions=2)

    def draw_task(self, key: Array, level: PyTree) -> PyTree:
        return level

    def reset(self, key: Array, task: PyTree) -> tuple[ControlState, Array]:
        joints = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return ControlState(joints=joints, time=jnp.zeros((), jnp.int32)), self.observe(joints)

    def step(self, key: Array, task: PyTree, state: ControlState, action: Array) -> tuple[ControlState, TimeStep]:
        pole_mass, half_length, step = 0.1, 0.5, 0.02  # kg, m, s
        mass = 1.0 + pole_mass  # with the cart's
        _, velocity, angle, turning = state.joints
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        push = (jnp.where(action == 1, 10.0, -10.0) + pole_mass * half_length * turning**2 * sine) / mass  # force in N
        inertia = half_length * (4.0 / 3.0 - pole_mass * cosine**2 / mass)
        turning_rate = (GRAVITY * sine - cosine * push) / inertia
        velocity_rate = push - pole_mass * half_length * turning_rate * cosine / mass
        joints = state.joints + step * jnp.stack([velocity, velocity_rate, turning, turning_rate])
        fell = (jnp.abs(joints[0]) > 2.4) | (jnp.abs(joints[2]) > 12.0 * 2.0 * jnp.pi / 360.0)
        return _after(self, state, joints, jnp.ones(()), fell)

    def observe(self, joints: Array) -> Array:
        """The joints themselves [4]."""
        return joints


@dataclasses.dataclass(frozen=True)
class Acrobot:
    """Two hanging links, with a torque at the joint between them, are to swing the tip up (Sutton, 1996).

    Each step costs 1, but for that which brings the tip one length above the fixed end, where the episode terminates.

    Attributes:
      max_steps: of an episode, which is then cut off.
    """

    max_steps: int = LIMIT

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(observation_shape=(6,), num_actions=3)

    def draw_task(self, key: Array, level: PyTree) -> PyTree:
        return level

    def reset(self, key: Array, task: PyTree) -> tuple[ControlState, Array]:
        joints = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return ControlState(joints=joints, time=jnp.zeros((), jnp.int32)), self.observe(joints)

    def step(self, key: Array, task: PyTree, state: ControlState, action: Array) -> tuple[ControlState, TimeStep]:
        step, torque, joints = 0.2, action - 1.0, state.joints  # s, N m
        # Runge and Kutta's fourth-order method.
        slopes = [_acrobot_slope(joints, torque)]
        for length in (step / 2, step / 2, step):
            slopes.append(_acrobot_slope(joints + length * slopes[-1], torque))
        first, second, third, fourth = slopes
        joints = joints + step / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
        limits = jnp.pi * jnp.array([4.0, 9.0])
        joints = jnp.concatenate([_within_a_turn(joints[:2]), jnp.clip(joints[2:], -limits, limits)])
        up = -jnp.cos(joints[0]) - jnp.cos(joints[0] + joints[1]) > 1.0
        return _after(self, state, joints, jnp.where(up, 0.0, -1.0), up)

    def observe(self, joints: Array) -> Array:
        """Cosine and sine of both angles, and their velocities in radians per second [6]."""
        cosine, sine = jnp.cos(joints), jnp.sin(joints)
        return jnp.stack([cosine[0], sine[0], cosine[1], sine[1], joints[2], joints[3]])


def _acrobot_slope(joints: Array, torque: Array) -> Array:
    """How the joints of an acrobot change per second [4]; masses, lengths and moments of inertia are 1."""
    angle, bend, turning, bending = joints
    center = 0.5  # of mass, along a link
    sine, cosine = center * jnp.sin(bend), center * jnp.cos(bend)
    inertia = 2.0 * center**2 + 1.0 + 2.0 * cosine + 2.0
    coupling = center**2 + cosine + 1.0
    # cos(x - pi / 2) is sin(x).
    lower_weight = center * GRAVITY * jnp.sin(angle + bend)
    weight = (center + 1.0) * GRAVITY * jnp.sin(angle) + lower_weight
    load = weight - sine * bending**2 - 2.0 * sine * bending * turning
    bend_rate = torque + coupling / inertia * load - sine * turning**2 - lower_weight
    bend_rate = bend_rate / (center**2 + 1.0 - coupling**2 / inertia)
    return jnp.stack([turning, bending, -(coupling * bend_rate + load) / inertia, bend_rate])


def _within_a_turn(angle: Array) -> Array:
    """The same angle in [-pi, pi]; those inside stay what they are."""
    turns = jnp.ceil((jnp.abs(angle) - jnp.pi) / (2.0 * jnp.pi))
    return jnp.where(jnp.abs(angle) > jnp.pi, angle - jnp.sign(angle) * turns * 2.0 * jnp.pi, angle)


ENVIRONMENTS: dict[str, type[CartPole] | type[Acrobot]] = {"CartPole-v1": CartPole, "Acrobot-v1": Acrobot}


@component("suites")
@dataclasses.dataclass(frozen=True)
class ClassicControl(WithoutLevels):
    """CartPole-v1 or Acrobot-v1 on the device: Gymnasium's dynamics, rewards and limits, in float32.

    Attributes:
      task: CartPole-v1 or Acrobot-v1.
      max_steps: limit of an episode, in steps.
    """

    task: str = "CartPole-v1"
    max_steps: int = LIMIT

    def __post_init__(self) -> None:
        if self.task not in ENVIRONMENTS:
            guess = did_you_mean(closest(self.task, ENVIRONMENTS))
            raise ValueError(f"there is no task '{self.task}', only {', '.join(ENVIRONMENTS)}.{guess}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")

    def tasks(self) -> Sequence[str]:
        return (self.task,)

    def environment(self, task: str) -> CartPole | Acrobot:
        return ENVIRONMENTS[task](self.max_steps)
