"""The hardware catalogue: peak figures from the makers' data sheets, dense, per chip.

Labels follow LLMServingSim's spelling (``RTXPRO6000``, ``RTX4090``, ``H100``, ``A6000``). Tensor rates that
a data sheet gives with sparsity only are halved here.
"""

from __future__ import annotations

from penstock.spec.catalogue_nvidia import NVIDIA
from penstock.spec.catalogue_others import OTHERS
from penstock.spec.hardware import HardwareSpec

CATALOGUE: tuple[HardwareSpec, ...] = NVIDIA + OTHERS
