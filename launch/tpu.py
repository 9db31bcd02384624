"""TPU slices of Google Kubernetes Engine: which there are, and how a pod asks for one.

After https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, machine types and topologies.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from framework.errors import UserError, closest, did_you_mean

_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


@dataclasses.dataclass(frozen=True)
class Generation:
    """TPUs of one generation.

    Attributes:
      accelerator: value of the node label ``cloud.google.com/gke-tpu-accelerator``.
      chips_per_host: that there are machines with.
      planes: topologies of two axes; none where slices have three.
      most_chips: of a slice with three axes.
    """

    accelerator: str
    chips_per_host: tuple[int, ...]
    planes: tuple[str, ...] = ()
    most_chips: int = 0


GENERATIONS: Mapping[str, Generation] = {
    "v4": Generation("tpu-v4-podslice", (4,), most_chips=3072),
    "v5e": Generation("tpu-v5-lite-podslice", (1, 4, 8), planes=_PLANES),
    "v5p": Generation("tpu-v5p-slice", (4,), most_chips=6144),
    "v6e": Generation("tpu-v6e-slice", (1, 4, 8), planes=_PLANES),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice.

    Attributes:
      generation: ``v4``, ``v5e``, ``v5p`` or ``v6e``.
      topology: chips along each axis, as ``2x4``.
      chips_per_host: of its machines.

    Raises:
      UserError: there is no such slice, in words.
    """

    generation: str
    topology: str
    chips_per_host: int

    def __post_init__(self) -> None:
        known = GENERATIONS.get(self.generation)
        if known is None:
            guess = did_you_mean(closest(self.generation, GENERATIONS))
            offered = ", ".join(GENERATIONS)
            raise UserError(
                f"GKE has no TPU '{self.generation}' for slices.{guess} There are {offered}; "
                "v2 and v3 are on Vertex AI: --on=vertex"
            )
        self._refuse_topology(known)
        if self.chips_per_host not in known.chips_per_host:
            offered = " or ".join(map(str, known.chips_per_host))
            raise UserError(f"hosts of TPU {self.generation} have {offered} chips, not {self.chips_per_host}")
        if self.chips % self.chips_per_host:
            raise UserError(
                f"a slice {self.topology} has {self.chips} chips, which hosts of {self.chips_per_host} cannot share: "
                "set --cluster.chips_per_host"
            )
        if self.hosts > 1 and self.chips_per_host != 4:
            raise UserError(
                f"a slice {self.topology} of TPU {self.generation} is on several hosts, and these have 4 chips each: "
                "set --cluster.chips_per_host=4"
            )

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.topology.split("x")))

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_per_host

    @property
    def accelerator(self) -> str:
        return GENERATIONS[self.generation].accelerator

    def _refuse_topology(self, known: Generation) -> None:
        axes = 2 if known.planes else 3
        form = " x ".join("AB" if axes == 2 else "ABC")
        if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{axes - 1}}}", self.topology):
            raise UserError(
                f"a topology of TPU {self.generation} has {axes} axes, {form}, and is not '{self.topology}'"
            )
        if known.planes:
            if self.topology not in known.planes:
                raise UserError(
                    f"TPU {self.generation} has no topology {self.topology}. There are {', '.join(known.planes)}."
                )
        elif not self._is_cube(known):
            raise UserError(
                f"TPU {self.generation} has no topology {self.topology}. There are {', '.join(_SMALL_CUBES)}, and "
                f"A x B x C with A <= B <= C, all multiples of 4, and at most {known.most_chips:,} chips."
            )

    def _is_cube(self, known: Generation) -> bool:
        sides = [int(side) for side in self.topology.split("x")]
        large = sides == sorted(sides) and all(side % 4 == 0 for side in sides) and self.chips <= known.most_chips
        return large or self.topology in _SMALL_CUBES
