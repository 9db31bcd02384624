"""What a step of a run costs: operations, memory, and the time to compile it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from framework.train import Trainer


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the compiled step takes: an update of every agent, or a meta-step; acting, and all births, included.

    Where environments are on the host, the acting in them is not.

    Attributes:
      platform: compiled for: ``cpu``, ``gpu``, ``tpu``.
      flops: floating-point operations of matrix products and convolutions, of all agents, per step.
      temp_megabytes: memory beside the state (10^6 bytes); ``None`` where the compiler does not say.
      compile_seconds: from the traced to the finished program.
    """

    platform: str
    flops: int
    temp_megabytes: float | None
    compile_seconds: float


def measure_cost(trainer: Trainer) -> Cost:
    """Compiles the trainer's step for the device at hand, without running it or reading any weights."""
    state = trainer.state_shapes()
    if trainer.on_host:
        traced = jax.jit(trainer.imagined_step, donate_argnums=0).trace(state)
    else:
        traced = trainer.program.trace(state, jax.ShapeDtypeStruct((), jnp.int32))
    started = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    return Cost(
        platform=jax.default_backend(),
        flops=count_flops(traced.jaxpr.jaxpr),
        temp_megabytes=None if memory is None else memory.temp_size_in_bytes / 1e6,
        compile_seconds=seconds,
    )


def count_flops(jaxpr: Jaxpr) -> int:
    """Floating-point operations of a program's matrix products and convolutions; a product and a sum are two.

    Every pass of a loop counts where their number is known, and one where it is not; of branches, the dearest one.
    The compiler's own count takes all loops for a single pass.
    """
    return sum(map(_flops, jaxpr.eqns))


def _flops(equation: JaxprEqn) -> int:
    inner = [count_flops(jaxpr) for jaxpr in _inner_jaxprs(equation.params)]
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, output = _shape(equation.invars[0]), _shape(equation.outvars[0])
            return 2 * math.prod(output) * math.prod(left[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel, output = _shape(equation.invars[1]), _shape(equation.outvars[0])
            output_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            return 2 * math.prod(output) * math.prod(kernel) // output_features
        case "scan":
            return equation.params["length"] * sum(inner)
        case "cond":
            return max(inner)
        case "shard_map":  # What is inside is the program of one device.
            return int(equation.params["mesh"].size) * sum(inner)
    return sum(inner)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner_jaxprs(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in parameters.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
