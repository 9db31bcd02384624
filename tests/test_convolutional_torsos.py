"""Torsos for images, and the stacking of frames."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components.convolutional_torsos import Convolution, Convolutional, FrameStack, Impala
from components.multi_input_torsos import MultiInput
from components.torsos import MLP, RecurrentMLP
from framework.agent import torso_for
from framework.errors import UserError
from framework.specs import ArraySpec
from framework.testing.networks import check_torso
from framework.types import Array, PyTree


class Seen(nn.Module):
    """Shows what a torso is shown."""

    @nn.compact
    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        return observation, carry

    def initial_carry(self, batch: int) -> PyTree:
        return ()


def stacked(observation: np.ndarray, reset: np.ndarray, carry: PyTree = None, frames: int = 3) -> tuple[Array, PyTree]:
    """The stack [T, B, ..., frames C] that a torso sees, and the carry after it."""
    stack = torso_for(FrameStack(Seen(), frames), ArraySpec(observation.shape[2:], observation.dtype.name))
    before = stack.initial_carry(observation.shape[1]) if carry is None else carry
    return stack.apply({}, jnp.asarray(observation), jnp.asarray(reset), before)


def test_frames_are_stacked_newest_last_and_empty_before_the_first() -> None:
    observation = np.arange(1, 7, dtype=np.uint8).reshape(6, 1, 1)
    reset = np.zeros((6, 1), bool)
    reset[3] = True
    seen, (frames, _) = stacked(observation, reset)
    expected = [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 4], [0, 4, 5], [4, 5, 6]]
    np.testing.assert_array_equal(seen[:, 0], expected)
    np.testing.assert_array_equal(frames[0, :, 0], [5, 6])
    assert seen.dtype == frames.dtype == jnp.uint8


@pytest.mark.parametrize("split", range(1, 8))
def test_stacks_do_not_depend_on_where_trajectories_are_cut(split: int) -> None:
    rng = np.random.default_rng(0)
    observation = rng.integers(0, 256, (8, 5, 2, 2, 3)).astype(np.uint8)
    reset = rng.random((8, 5)) < 0.3
    whole, carry = stacked(observation, reset)
    first, between = stacked(observation[:split], reset[:split])
    second, after = stacked(observation[split:], reset[split:], between)
    np.testing.assert_array_equal(jnp.concatenate([first, second]), whole)
    np.testing.assert_array_equal(after[0], carry[0])
    assert whole.shape == (8, 5, 2, 2, 9)


def test_a_cleared_carry_is_an_episodes_beginning() -> None:
    """Acting clears the carry where an episode ended; learning resets it on the way: both see the same."""
    observation = np.full((2, 1, 1), 7, np.uint8)
    never, at_once = np.zeros((2, 1), bool), np.array([[True], [False]])
    carry = (jnp.full((1, 2, 1), 9, jnp.uint8), ())
    np.testing.assert_array_equal(stacked(observation, at_once, carry)[0], stacked(observation, never)[0])


def test_a_stack_takes_the_form_of_what_is_shown() -> None:
    inner = FrameStack(Seen(), frames=2)
    stack = torso_for(FrameStack(inner, frames=3), ArraySpec((5, 5, 2), "bool"))
    frames, (within, _) = stack.initial_carry(4)
    assert (frames.shape, frames.dtype) == ((4, 2, 5, 5, 2), bool)
    assert (within.shape, within.dtype) == ((4, 1, 5, 5, 6), bool)
    seen, _ = stack.apply({}, jnp.ones((1, 4, 5, 5, 2), bool), jnp.zeros((1, 4), bool), (frames, (within, ())))
    assert (seen.shape, seen.dtype) == ((1, 4, 5, 5, 12), bool)
    reader = torso_for(MultiInput(("map",), (FrameStack(Seen()),)), {"map": ArraySpec((5, 5, 1), "uint8")})
    assert reader.initial_carry(2)[0][0].shape == (2, 3, 5, 5, 1)
    assert torso_for(MLP(), ArraySpec((3,))) == MLP()


def test_frames_of_other_forms_are_refused() -> None:
    with pytest.raises(UserError, match=r"stacks single arrays, the environment shows map int16\[21, 79\]"):
        torso_for(FrameStack(Seen()), {"map": ArraySpec((21, 79), "int16")})
    with pytest.raises(ValueError, match="does not know what a frame is"):
        FrameStack(Seen()).initial_carry(1)
    with pytest.raises(ValueError, match="must be at least 2"):
        FrameStack(Seen(), frames=1)
    with pytest.raises(UserError, match="an axis to stack on"):
        torso_for(FrameStack(Seen()), ArraySpec(()))


@pytest.mark.parametrize(
    "torso",
    [MLP((8,)), RecurrentMLP((8,), memory=4), Convolutional((4, 4), hidden=8)],
    ids=lambda torso: type(torso).__name__,
)
def test_stacks_conform(torso: nn.Module) -> None:
    check_torso(FrameStack(torso))


@pytest.mark.parametrize("torso", [Convolutional(), Impala((4, 4), units=1, hidden=8)], ids=lambda t: type(t).__name__)
def test_image_torsos_conform(torso: nn.Module) -> None:
    check_torso(torso)


def embedding(torso: nn.Module, observation: Array) -> tuple[Array, PyTree]:
    reset = jnp.zeros(observation.shape[:2], bool)
    variables = torso.init(jax.random.key(0), observation, reset, ())
    return torso.apply(variables, observation, reset, ())[0], variables["params"]


@pytest.mark.parametrize("torso", [Convolutional(hidden=7), Impala((4,), hidden=7)], ids=lambda t: type(t).__name__)
def test_bytes_are_scaled_and_other_numbers_kept(torso: nn.Module) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 10, 2)).astype(np.uint8)
    found, _ = embedding(torso, jnp.asarray(image))
    assert found.shape == (2, 3, 7)
    np.testing.assert_allclose(found, embedding(torso, jnp.asarray(image / 255.0, jnp.float32))[0], rtol=1e-5)


def test_sizes_are_those_of_the_papers() -> None:
    frames = jax.ShapeDtypeStruct((1, 1, 84, 84, 4), jnp.uint8)

    def shapes(torso: nn.Module) -> dict[str, tuple[int, ...]]:
        params = jax.eval_shape(lambda: embedding(torso, jnp.zeros(frames.shape, frames.dtype))[1])
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}

    small = shapes(Convolutional())
    assert small["convolution_0/convolution/kernel"] == (8, 8, 4, 16)
    assert small["convolution_1/convolution/kernel"] == (4, 4, 16, 32)
    assert small["hidden/kernel"] == (11 * 11 * 32, 256)
    large = shapes(Impala((256, 384, 384, 256), hidden=768))
    assert large["hidden/kernel"] == (6 * 6 * 256, 768)
    assert sum("kernel" in name for name in large) == 4 * (1 + 2 * 2) + 1


def test_weights_are_truncated_normal_for_their_fan_in() -> None:
    layer = Convolution(64, kernel=3)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 5, 5, 32)))["params"]["convolution"]
    stddev = (3 * 3 * 32) ** -0.5
    assert np.abs(params["kernel"]).max() <= 2 * stddev
    # A normal distribution cut off at two standard deviations has 0.8796 of the deviation.
    np.testing.assert_allclose(params["kernel"].std(), 0.8796 * stddev, rtol=0.02)
    assert not params["bias"].any()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be equally many"):
        Convolutional(channels=(8,))
    with pytest.raises(ValueError, match="sizes must be positive"):
        Impala(units=0)
    with pytest.raises(ValueError, match=r"needs observations \[H, W\] or \[H, W, C\], got \[5\]"):
        embedding(Convolutional(), jnp.zeros((1, 1, 5)))


def test_configurations_are_equal_as_jit_needs() -> None:
    one, other = FrameStack(Impala()), FrameStack(Impala())
    assert (one, hash(one)) == (other, hash(other))
    assert dataclasses.replace(one, frames=2) != other
