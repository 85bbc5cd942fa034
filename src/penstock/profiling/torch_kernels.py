"""The kernels of a decoder layer in PyTorch, random weights, ready to be timed one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.cost.kernels import KernelSet
from penstock.spec.model import ModelSpec

Call = Callable[[], Any]


class TorchKernels:
    """Makes calls of given sizes; weights are made once. Needs the ``profile`` extra (PyTorch)."""

    def __init__(self, model: ModelSpec, kernels: KernelSet, device: str, dtype: str) -> None:
        import torch  # pyright: ignore[reportMissingImports]

        self._torch: Any = torch
        self._model = model
        self._kernels = kernels
        self._options = {"device": device, "dtype": getattr(torch, dtype)}
        self._weights: dict[str, Any] = {}
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
            table = self._weight("embedding", (self._model.vocab_size, hidden))
            ids = self._torch.randint(self._model.vocab_size, (tokens,), device=self._options["device"])
            return lambda: functional.embedding(ids, table)
        if name == "act_fn":
            inner = self._kernels.gemms["down_proj"].inner
            both = self._random((tokens, 2 * inner))
            return lambda: functional.silu(both[:, :inner]) * both[:, inner:]
        if name in ("layernorm", "final_layernorm"):
            x, residual, scale = (
                self._random((tokens, hidden)),
                self._random((tokens, hidden)),
                self._random((hidden,)),
            )
            return lambda: functional.rms_norm(x + residual, (hidden,), scale)
        heads = self._kernels.attention.heads + self._kernels.attention.kv_heads
        dim = self._kernels.attention.head_dim
        states = self._random((tokens, heads, dim))
        if name == "qk_norm":
            scale = self._random((dim,))
            return lambda: functional.rms_norm(states, (dim,), scale)
        cos, sin = self._random((tokens, 1, dim // 2)), self._random((tokens, 1, dim // 2))
        return lambda: self._rotate(states, cos, sin)

    def gemm(self, name: str, rows: int) -> Call:
        """A matrix multiplication of ``rows`` rows."""
        shape = self._kernels.gemms[name]
        x, weight = self._random((rows, shape.inner)), self._weight(name, (shape.outer, shape.inner))
        return lambda: self._torch.nn.functional.linear(x, weight)

    def sampler(self, sequences: int) -> Call:
        """Softmax with temperature and a draw per sequence."""
        logits = self._random((sequences, self._model.vocab_size)).float()
        noise = self._torch.empty_like(logits).exponential_()
        return lambda: ((logits / 0.7).softmax(dim=-1) / noise).argmax(dim=-1)

    def attention(self, chunk: int, history: int, decodes: int, context: int) -> Call:
        """PyTorch's scaled dot-product attention: a causal chunk after its history, decodes in one batch."""
        from torch.nn.attention.bias import causal_lower_right  # pyright: ignore[reportMissingImports]

        shape = self._kernels.attention
        calls: list[Call] = []
        attend = self._torch.nn.functional.scaled_dot_product_attention
        grouped = shape.heads != shape.kv_heads
        if chunk:
            q = self._random((1, shape.heads, chunk, shape.head_dim))
            k, v = (self._random((1, shape.kv_heads, history + chunk, shape.head_dim)) for _ in range(2))
            mask = causal_lower_right(chunk, history + chunk)
            if history:
                mask = mask._materialize(self._options["device"])  # noqa: SLF001 (grouped heads need a tensor)
                calls.append(lambda: attend(q, k, v, attn_mask=mask, enable_gqa=grouped))
            else:
                calls.append(lambda: attend(q, k, v, is_causal=True, enable_gqa=grouped))
        if decodes:
            one = self._random((decodes, shape.heads, 1, shape.head_dim))
            keys, values = (
                self._random((decodes, shape.kv_heads, context + 1, shape.head_dim)) for _ in range(2)
            )
            calls.append(lambda: attend(one, keys, values, enable_gqa=grouped))
        return lambda: [call() for call in calls]

    def _rotate(self, states: Any, cos: Any, sin: Any) -> Any:
        low, high = states.chunk(2, dim=-1)
        return self._torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

    def _random(self, shape: tuple[int, ...]) -> Any:
        return self._torch.randn(shape, **self._options)

    def _weight(self, name: str, shape: tuple[int, ...]) -> Any:
        if name not in self._weights:
            self._weights[name] = self._random(shape)
        return self._weights[name]
