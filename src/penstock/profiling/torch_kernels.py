"""The kernels of a decoder layer in PyTorch, random weights, ready to be timed one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from penstock.cost.kernels import kernel_set
from penstock.profiling.torch_attention import attention_calls
from penstock.spec.model import ModelSpec

Call = Callable[[], Any]


class TorchKernels:
    """Makes calls of given sizes, with the shapes that one of ``tp_size`` ranks has; weights are made once. Needs the
    ``profile`` extra (PyTorch).

    On a CUDA device, memory-bound kernels are fused by ``torch.compile``, as vLLM's are, and the weights of a matrix
    multiplication are as many copies as its L2 cache cannot hold, taken in turn: in a model, a layer's weights have
    left the cache when the layer comes again.
    """

    def __init__(self, model: ModelSpec, tp_size: int, device: str, dtype: str) -> None:
        import torch  # pyright: ignore[reportMissingImports]

        self._torch: Any = torch
        self._model = model
        self._kernels = kernel_set(model, model.kinds[0], tp_size, dtype, "auto")
        self._options = {"device": device, "dtype": getattr(torch, dtype)}
        self.attention = attention_calls(torch, self._kernels.attention, self._options)
        self._weights: dict[str, list[Any]] = {}
        self._cache_bytes = 0
        self._fused: Callable[[Any], Any] = lambda function: function
        if device.startswith("cuda"):
            self._cache_bytes = 2 * torch.cuda.get_device_properties(device).L2_cache_size
            self._fused = torch.compile(dynamic=True)
        torch.manual_seed(0)

    def dense_names(self) -> tuple[str, ...]:
        """Kernels over tokens."""
        gemms = tuple(name for name in self._kernels.gemms if name != "lm_head")
        return (*gemms, *(name for name in self._kernels.streams if name != "sampler"))

    def dense(self, name: str, tokens: int) -> Call:
        """A call of kernel ``name`` for ``tokens``."""
        if name in self._kernels.gemms:
            return self.gemm(name, tokens)
        functional = self._torch.nn.functional
        hidden = self._model.hidden_size
        if name == "embedding":
            table = self._random((self._model.vocab_size, hidden))
            ids = self._torch.randint(self._model.vocab_size, (tokens,), device=self._options["device"])
            return lambda: functional.embedding(ids, table)
        if name == "act_fn":
            inner = self._kernels.gemms["down_proj"].inner
            both = self._random((tokens, 2 * inner))
            activate = self._fused(_silu_and_mul)
            return lambda: activate(both)
        normalize = self._fused(_add_and_normalize)
        if name in ("layernorm", "final_layernorm"):
            x, residual, scale = (
                self._random((tokens, hidden)),
                self._random((tokens, hidden)),
                self._random((hidden,)),
            )
            return lambda: normalize(x, residual, scale)
        heads = self._kernels.attention.heads + self._kernels.attention.kv_heads
        dim = self._kernels.attention.head_dim
        states = self._random((tokens, heads, dim))
        if name == "qk_norm":
            scale = self._random((dim,))
            normalize = self._fused(_normalize)
            return lambda: normalize(states, scale)
        cos, sin = self._random((tokens, 1, dim // 2)), self._random((tokens, 1, dim // 2))
        rotate = self._fused(_rotate)
        return lambda: rotate(states, cos, sin)

    def gemm(self, name: str, rows: int) -> Call:
        """A matrix multiplication of ``rows`` rows."""
        shape = self._kernels.gemms[name]
        x = self._random((rows, shape.inner))
        weights = itertools.cycle(self._copies(name, (shape.outer, shape.inner)))
        return lambda: self._torch.nn.functional.linear(x, next(weights))

    def sampler(self, sequences: int) -> Call:
        """Softmax with temperature and a draw per sequence."""
        logits = self._random((sequences, self._model.vocab_size)).float()
        noise = self._torch.empty_like(logits).exponential_()
        return lambda: ((logits / 0.7).softmax(dim=-1) / noise).argmax(dim=-1)

    def _random(self, shape: tuple[int, ...]) -> Any:
        return self._torch.randn(shape, **self._options)

    def _copies(self, name: str, shape: tuple[int, ...]) -> list[Any]:
        if name not in self._weights:
            first = self._random(shape)
            more = self._cache_bytes // (first.numel() * first.element_size())
            self._weights[name] = [first, *(self._random(shape) for _ in range(more))]
        return self._weights[name]


def _silu_and_mul(both: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _add_and_normalize(x: Any, residual: Any, scale: Any) -> Any:
    both = x + residual
    return both, _normalize(both, scale)


def _normalize(x: Any, scale: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    return torch.nn.functional.rms_norm(x, scale.shape, scale)


def _rotate(states: Any, cos: Any, sin: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    low, high = states.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
