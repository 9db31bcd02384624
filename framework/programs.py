"""How programs are compiled: quickly, and once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from framework.types import PyTree


def compiler_options() -> dict[str, int] | None:
    """Options for the device at hand: on a CPU, optimizing less compiles up to 40 % faster to a program as fast.

    ``JAX_DISABLE_MOST_OPTIMIZATIONS=1``, which asks for still less, has its way.
    """
    if jax.default_backend() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return None
    return {"xla_backend_optimization_level": 1}


def written_out(params: PyTree) -> bool:
    """Whether a loop over gradients in some parameters is better compiled step by step, without a loop.

    So it is on a CPU with convolutions: their gradients take XLA ten times as long inside a loop (jax-ml/jax#12868).
    """
    return compiler_options() is not None and any(x.ndim == 4 for x in jax.tree.leaves(params))


def strongly_typed(tree: PyTree) -> PyTree:
    """The same arrays; a program compiled for weakly typed ones would be compiled again for the next call's."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """The function as a program that takes what it returns, and so is compiled once; options are those of `jax.jit`."""

    @functools.wraps(function)
    def typed(*given: Any) -> Any:
        return strongly_typed(function(*given))

    return jax.jit(typed, compiler_options=compiler_options(), **options)
