"""Torsos for observations that are dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from components.convolutional_torsos import Convolution
from framework.agent import torso_for
from framework.errors import check_named
from framework.interfaces import Torso
from framework.layers import LSTM, Linear, check_sizes, truncated_normal
from framework.layers import MLP as Layers
from framework.registry import component
from framework.specs import ArraySpec
from framework.transforms import signed_log
from framework.types import Array, PyTree


@component("torsos")
class MultiInput(nn.Module):
    """A torso for each of several arrays of an observation, their embeddings one behind the other.

    Attributes:
      inputs: names of the arrays.
      torsos: who reads each of them.
    """

    inputs: tuple[str, ...]
    torsos: tuple[Torso, ...]

    def __post_init__(self) -> None:
        check_named("inputs", self.inputs)
        if len(self.inputs) != len(self.torsos):
            raise ValueError(
                f"torsos must be one for each of the inputs {', '.join(self.inputs)}, got {len(self.torsos)}"
            )
        super().__post_init__()

    def set_up_for(self, observation: ArraySpec | Mapping[str, ArraySpec]) -> MultiInput:
        if not isinstance(observation, Mapping):
            return self  # What is wrong is told where the torso is compared with its environment.
        of_inputs = zip(self.inputs, self.torsos, strict=True)
        torsos = tuple(torso_for(torso, observation[name]) for name, torso in of_inputs)
        return MultiInput(self.inputs, torsos, parent=None)

    def __call__(self, observation: Mapping[str, Array], reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        embeddings, carries = [], []
        for name, torso, own in zip(self.inputs, self.torsos, carry, strict=True):
            embedding, after = torso(observation[name], reset, own)
            embeddings.append(embedding)
            carries.append(after)
        return jnp.concatenate(embeddings, axis=-1), tuple(carries)

    def initial_carry(self, batch: int) -> PyTree:
        return tuple(torso.initial_carry(batch) for torso in self.torsos)


ROWS, COLUMNS, GLYPHS = 21, 79, 5976
"""Of NetHack's map, and how many different things can be drawn on it."""

STATISTICS, MESSAGE, CHARACTERS = 27, 256, 256
"""Numbers of the bottom line, bytes of a message, values of a byte."""


@component("torsos")
class NetHackEncoder(nn.Module):
    """The encoder of the NetHack Learning Environment's baseline (Küttler et al., 2020, section 4), and its LSTM.

    Glyphs are embedded; one stack of convolutions sees the whole map, another what surrounds the agent. Both, with the
    numbers of the bottom line through two layers, go through two layers and the LSTM. Chosen: the signed logarithm of
    the numbers, an embedding of its own for what lies beyond the map, and that the message is read, which the baseline
    leaves out.

    Attributes:
      embedding: size of a glyph's embedding and of the bottom line's; 32 in the baseline.
      crop: rows and columns around the agent, odd; 9 in the baseline.
      channels: filters of each convolution 3 x 3; 16 of all but the last, which has 8, in the baseline.
      hidden: size of the two layers; 512 in the baseline.
      memory: size of the LSTM's hidden state, ``None`` for no LSTM; 512 in the baseline.
      message: size of the message's embedding, ``None`` to leave it out; each of its bytes is embedded as a fourth of
        this.
    """

    embedding: int = 32
    crop: int = 9
    channels: tuple[int, ...] = (16, 16, 16, 16, 8)
    hidden: int = 512
    memory: int | None = 512
    message: int | None = 32

    def __post_init__(self) -> None:
        optional = [size for size in (self.memory, self.message) if size is not None]
        check_sizes((self.embedding, self.crop, *self.channels, self.hidden, *optional))
        if self.crop % 2 == 0:
            raise ValueError(f"crop must be odd, for the agent to be in its middle, got {self.crop}")
        super().__post_init__()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that it reads."""
        return tuple(self.parts)

    @property
    def parts(self) -> dict[str, ArraySpec]:
        """The arrays that it reads."""
        read = {"glyphs": ArraySpec((ROWS, COLUMNS), "int16"), "blstats": ArraySpec((STATISTICS,), "int32")}
        return read if self.message is None else read | {"message": ArraySpec((MESSAGE,), "uint8")}

    @nn.compact
    def __call__(self, observation: Mapping[str, Array], reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        glyphs, numbers = observation["glyphs"].astype(jnp.int32), observation["blstats"]
        # One more glyph is what lies beyond the map.
        table = self.param("glyphs", truncated_normal(1.0), (GLYPHS + 1, self.embedding))
        whole = self._convolved(table[glyphs], "map")
        near = self._convolved(table[around(glyphs, numbers[..., 1], numbers[..., 0], self.crop)], "crop")
        line = nn.relu(Layers((self.embedding, self.embedding), name="bottom_line")(signed_log(numbers * 1.0)))
        seen = [line, near, whole]
        if self.message is not None:
            size = max(1, self.message // 4)
            characters = self.param("characters", truncated_normal(1.0), (CHARACTERS, size))
            text = characters[observation["message"].astype(jnp.int32)]
            seen.append(nn.relu(Linear(self.message, name="message")(text.reshape(*text.shape[:2], -1))))
        hidden = nn.relu(Layers((self.hidden, self.hidden), name="layers")(jnp.concatenate(seen, axis=-1)))
        if self.memory is None:
            return hidden, carry
        return LSTM(self.memory, name="lstm")(hidden, reset, carry)

    def _convolved(self, x: Array, name: str) -> Array:
        """From embedded glyphs [T, B, H, W, embedding] to [T, B, D]."""
        for index, size in enumerate(self.channels):
            x = nn.elu(Convolution(size, kernel=3, name=f"{name}_{index}")(x))
        return x.reshape(*x.shape[:2], -1)

    def initial_carry(self, batch: int) -> PyTree:
        return () if self.memory is None else LSTM(self.memory, parent=None).initial_carry(batch)


def around(glyphs: Array, row: Array, column: Array, size: int) -> Array:
    """What surrounds a place of each map [T, B, size, size]; the glyph behind the last one where no map is.

    Args:
      glyphs: [T, B, rows, columns].
      row: of the place in the middle [T, B].
      column: likewise [T, B].
      size: of what is shown, odd.
    """
    margin = size // 2
    widths = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    padded = jnp.pad(glyphs, widths, constant_values=GLYPHS)

    def cut(one: Array, row: Array, column: Array) -> Array:
        return jax.lax.dynamic_slice(one, (row, column), (size, size))

    return jax.vmap(jax.vmap(cut))(padded, row, column)
