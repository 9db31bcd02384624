"""Torsos for images, and the stacking of frames that single images need."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from components.torsos import unit_bytes
from framework.agent import torso_for
from framework.errors import UserError
from framework.interfaces import Initializer, Torso
from framework.layers import Linear, check_sizes, truncated_normal
from framework.registry import component
from framework.specs import ArraySpec, described
from framework.types import Array, PyTree


def unit_images(observation: Array) -> Array:
    """Images [T, B, H, W, C] float32 with bytes in [0, 1]; [H, W] is one channel."""
    if observation.ndim == 4:  # [T, B, H, W]
        observation = observation[..., None]
    if observation.ndim != 5:
        raise ValueError(
            f"a convolutional torso needs observations [H, W] or [H, W, C], got {list(observation.shape[2:])}: "
            "choose another torso"
        )
    return unit_bytes(observation)


class Convolution(nn.Module):
    """A convolution with zero biases and zero padding: [..., H, W, C] to [..., H', W', size].

    Attributes:
      size: number of filters.
      kernel, stride: of both axes; H' = ceil(H / stride).
      initializer: of the weights; by default truncated normal with deviation 1 / sqrt(fan_in), as in a linear layer.
    """

    size: int
    kernel: int
    stride: int = 1
    initializer: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        default = truncated_normal((self.kernel**2 * x.shape[-1]) ** -0.5)
        convolve = nn.Conv(
            self.size,
            kernel_size=(self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            kernel_init=default if self.initializer is None else self.initializer,
            name="convolution",
        )
        return convolve(x)


def embed(images: Array, hidden: int, initializer: Initializer | None = None) -> Array:
    """The last layer of a convolutional torso: from [T, B, H, W, C] to relu(W x + b) [T, B, hidden]."""
    flat = nn.relu(images).reshape(*images.shape[:2], math.prod(images.shape[2:]))
    return nn.relu(Linear(hidden, name="hidden", initializer=initializer)(flat))


@component("torsos")
class Convolutional(nn.Module):
    """A few convolutions with ReLU, then a layer; by default the network of Mnih et al. (2013).

    Bytes are scaled to [0, 1]. The padding is chosen (zeros, so that images of any size fit).

    Attributes:
      channels: filters of each convolution.
      kernels, strides: of each convolution, in pixels.
      hidden: size of the layer.
      initializer: of all weights; by default truncated normal with deviation 1 / sqrt(fan_in).
    """

    channels: tuple[int, ...] = (16, 32)
    kernels: tuple[int, ...] = (8, 4)
    strides: tuple[int, ...] = (4, 2)
    hidden: int = 256
    initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_sizes((*self.channels, *self.kernels, *self.strides, self.hidden))
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise ValueError(
                f"channels {self.channels}, kernels {self.kernels} and strides {self.strides} must be equally many, "
                "one for each convolution"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        x = unit_images(observation)
        for index, sizes in enumerate(zip(self.channels, self.kernels, self.strides, strict=True)):
            layer = Convolution(*sizes, self.initializer, name=f"convolution_{index}")
            x = layer(x if index == 0 else nn.relu(x))
        return embed(x, self.hidden, self.initializer), carry

    def initial_carry(self, batch: int) -> PyTree:
        return ()


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), with kernels 3 x 3 (Espeholt et al., 2018, figure 3)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = x.shape[-1]
        inner = Convolution(size, kernel=3, name="convolution_0")(nn.relu(x))
        return x + Convolution(size, kernel=3, name="convolution_1")(nn.relu(inner))


@component("torsos")
class Impala(nn.Module):
    """The residual network of IMPALA (Espeholt et al., 2018, figure 3, right), without its LSTM.

    A block is a convolution 3 x 3, a maximum over 3 x 3 with stride 2, and residual units. Bytes are scaled to [0, 1].

    Attributes:
      channels: filters of each block; (16, 32, 32) in IMPALA, (256, 384, 384, 256) for DiscoRL's agents on Atari.
      units: residual units of a block; 2 in IMPALA, not stated for DiscoRL.
      hidden: size of the layer; 256 in IMPALA, 768 for DiscoRL's agents on Atari.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    units: int = 2
    hidden: int = 256

    def __post_init__(self) -> None:
        check_sizes((*self.channels, self.units, self.hidden))
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        x = unit_images(observation)
        for block, size in enumerate(self.channels):
            x = Convolution(size, kernel=3, name=f"block_{block}")(x)
            x = _pool(x)
            for unit in range(self.units):
                x = ResidualUnit(name=f"block_{block}_unit_{unit}")(x)
        return embed(x, self.hidden), carry

    def initial_carry(self, batch: int) -> PyTree:
        return ()


def _pool(x: Array) -> Array:
    """Maximum over 3 x 3 pixels with stride 2: [T, B, H, W, C] to [T, B, ceil(H / 2), ceil(W / 2), C]."""
    pooled = nn.max_pool(x.reshape(-1, *x.shape[2:]), (3, 3), strides=(2, 2), padding="SAME")
    return pooled.reshape(*x.shape[:2], *pooled.shape[1:])


@component("torsos")
class FrameStack(nn.Module):
    """Shows a torso the last frames of the episode, one behind the other on the last axis, the newest last.

    The frames are the carry: environments show and trajectories hold single frames, which are stacked when they are
    read. Before an episode's first frame all is zero, as after an agent's birth.

    Attributes:
      torso: what sees the frames, [T, B, H, W, frames C] for images [H, W, C].
      frames: how many it sees at once; 4 in Mnih et al. (2015).
    """

    torso: Torso
    frames: int = 4

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"frames must be at least 2, got {self.frames}: without a stack, use the torso itself")
        super().__post_init__()

    def set_up_for(self, observation: ArraySpec | Mapping[str, ArraySpec]) -> FrameStack:
        if not isinstance(observation, ArraySpec):
            raise UserError(f"FrameStack stacks single arrays, the environment shows {described(observation)}")
        if not observation.shape:
            raise UserError("FrameStack needs observations with an axis to stack on: a state's index has none")
        *axes, last = observation.shape
        stack = ArraySpec((*axes, self.frames * last), observation.dtype)
        return _StackOf(torso=torso_for(self.torso, stack), frames=self.frames, frame=observation, parent=None)

    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        before, carry = carry
        shown, steps = jnp.concatenate([jnp.moveaxis(before, 1, 0), observation]), observation.shape[0]
        # Frames belong together where as many episodes have begun before the one as before the other.
        episode = jnp.cumsum(reset, axis=0, dtype=jnp.int32)
        episodes = jnp.concatenate([jnp.zeros((self.frames - 1, *reset.shape[1:]), jnp.int32), episode])
        lags = range(self.frames - 1, -1, -1)
        first = self.frames - 1
        of_episode = functools.partial(_of_episode, shown, episodes)
        stack = jnp.concatenate([of_episode(first - lag, steps, episode) for lag in lags], axis=-1)
        after = of_episode(steps, self.frames - 1, episode[-1:])
        embedding, carry = self.torso(stack, reset, carry)
        return embedding, (jnp.moveaxis(after, 0, 1), carry)

    def initial_carry(self, batch: int) -> PyTree:
        raise ValueError("FrameStack does not know what a frame is: take what its set_up_for returns")


class _StackOf(FrameStack):
    """A stack that knows what a frame is."""

    frame: ArraySpec = ArraySpec((1,))

    def initial_carry(self, batch: int) -> PyTree:
        frames = jnp.zeros((batch, self.frames - 1, *self.frame.shape), self.frame.dtype)
        return frames, self.torso.initial_carry(batch)


def _of_episode(shown: Array, episodes: Array, start: int, length: int, episode: Array) -> Array:
    """Rows ``start`` to ``start + length`` of the frames [T', B, ...], zero where they are of another episode."""
    frames, same = shown[start : start + length], episodes[start : start + length] == episode
    return jnp.where(same.reshape(*same.shape, *[1] * (frames.ndim - 2)), frames, jnp.zeros_like(frames))
