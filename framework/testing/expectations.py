"""What conformance checks are written in: comparisons that say what is wrong, and checks of functions and gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framework.testing.examples import random_normal
from framework.types import Array, Params, PyTree


def expect(condition: bool | np.bool_ | Array, message: str) -> None:
    """Fails with a message; unlike the statement, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def expect_shape(x: Array, shape: tuple[int, ...], what: str) -> None:
    expect(x.shape == shape, f"{what} has shape {x.shape}, expected {shape}")


def expect_close(found: PyTree, expected: PyTree, message: str, tolerance: float = 1e-4) -> None:
    """Compares two trees, relative to the largest magnitude of each array but at least 1."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (found, expected)]
    expect(structures[0] == structures[1], f"{message}: other structure")
    for a, b in zip(map(np.asarray, jax.tree.leaves(found)), map(np.asarray, jax.tree.leaves(expected)), strict=True):
        expect(a.shape == b.shape, f"{message}: shapes {a.shape} and {b.shape}")
        error = np.abs(a.astype(float) - b.astype(float)).max(initial=0.0)
        expect(error <= tolerance * max(1.0, np.abs(b).max(initial=0.0)), f"{message}: they differ by {error:.2g}")


def expect_same_form(found: PyTree, expected: PyTree, what: str) -> None:
    """Compares structure, shapes and dtypes."""
    forms = [jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype), tree) for tree in (found, expected)]
    expect(forms[0] == forms[1], f"{what} has the form {forms[0]}, expected {forms[1]}")


def check_function(function: Callable[..., Any], *arguments: PyTree) -> Any:
    """Checks that a function is pure, finite, and fit for jit and vmap; returns its output.

    Raises:
      AssertionError: it changes its inputs, is not the same function when traced again, compiles a second time for
        the same shapes, gives other numbers for the same inputs, or gives numbers that are not finite.
    """
    traces = 0

    def traced(*arguments: PyTree) -> Any:
        nonlocal traces
        traces += 1
        before: Any = jax.tree.flatten(arguments)
        output = function(*arguments)
        after = jax.tree.flatten(arguments)
        same = before[1] == after[1] and all(a is b for a, b in zip(before[0], after[0], strict=True))
        expect(same, "it changes its inputs")
        return output

    compiled = jax.jit(traced)
    output, again = compiled(*arguments), compiled(*arguments)
    expect(traces == 1, "it compiles again on the second call")
    for one, other in zip(jax.tree.leaves(output), jax.tree.leaves(again), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        expect(one.tobytes() == other.tobytes(), "the same inputs give other outputs")
        expect(one.dtype.kind != "f" or np.isfinite(one).all(), "its output is not finite")
    pair = jax.tree.map(lambda x: jnp.stack([x, x]), arguments)
    vmapped = jax.eval_shape(jax.vmap(function), *pair)
    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(vmapped)]
    expect(shapes == [jnp.shape(leaf) for leaf in jax.tree.leaves(output)], "vmap gives other shapes")
    expect(
        _program(function, arguments) == _program(function, arguments),
        "it is another function when traced again: is there randomness without a key?",
    )
    return output


def _program(function: Callable[..., Any], arguments: tuple[PyTree, ...]) -> tuple[str, list[bytes]]:
    """What a function is compiled from, and its constants, traced anew."""
    program = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
    text = re.sub("0x[0-9a-f]+", "", str(program))  # addresses of functions
    return text, [np.asarray(constant).tobytes() for constant in program.consts]


def check_gradient_reaches(function: Callable[[Params], Array], params: Params) -> None:
    """Checks that each array of the parameters has a part in the output."""

    def projected(params: Params) -> Array:
        output = function(params)
        return (output * random_normal(np.random.default_rng(1), *output.shape)).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(projected))(params)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        expect(np.any(np.asarray(leaf)), f"its parameter {name} receives no gradient")


def check_finite_difference(function: Callable[[PyTree], Array], at: PyTree, gradient: PyTree) -> None:
    """Compares a gradient with the slope of the function in a random direction."""
    rng, step = np.random.default_rng(0), 1e-2
    direction = jax.tree.map(lambda x: random_normal(rng, *x.shape), at)
    forward, backward = (function(jax.tree.map(lambda x, d, s=s: x + s * d, at, direction)) for s in (step, -step))
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    expect_close(slope, (forward - backward) / (2.0 * step), "the gradient is not that of the loss", tolerance=0.02)


def init(module: nn.Module, *arguments: PyTree, static: tuple[Any, ...] = ()) -> Params:
    """Random parameters of a linen module; ``{}`` where it has none."""
    variables = jax.jit(lambda key, *arguments: module.init(key, *arguments, *static))(jax.random.key(0), *arguments)
    return variables.get("params", {})


def rotation(size: int) -> np.ndarray:
    """A permutation without fixed points, where there is one."""
    return np.roll(np.arange(size), 1)
