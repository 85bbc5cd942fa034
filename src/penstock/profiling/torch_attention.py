"""Attention of one layer on this machine, ready to be timed: PyTorch's own, or vLLM's over a paged KV cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

from penstock.cost.kernels import AttentionShape

Call = Callable[[], Any]

BLOCK_TOKENS = 16
POOL_BYTES = 4 << 30
"""Keys and values of the paged cache together: many times what a GPU's L2 cache holds."""
TABLES = 8
"""Block tables that the calls of one size take in turn, as each layer of a model has blocks of its own."""


class AttentionCalls(Protocol):
    """Makes calls of given sizes."""

    note: str
    """Whose kernels these are, for the bundle's ``meta.yaml``."""

    def __call__(self, chunk: int, history: int, decodes: int, context: int) -> Call:
        """A call for a causal chunk of ``chunk`` tokens (0 = none) after ``history``, and ``decodes`` sequences of one
        token after ``context`` each."""
        ...


def attention_calls(torch: Any, shape: AttentionShape, options: dict[str, Any]) -> AttentionCalls:
    """vLLM's attention on a CUDA device where vLLM is installed, PyTorch's otherwise. ``options`` are the ``device``
    and ``dtype`` of tensors."""
    if str(options["device"]).startswith("cuda"):
        try:
            from vllm import vllm_flash_attn  # pyright: ignore[reportMissingImports]
        except ImportError:
            pass
        else:
            return PagedAttention(torch, vllm_flash_attn, shape, options)
    return SdpaAttention(torch, shape, options)


class SdpaAttention:
    """PyTorch's scaled dot-product attention: a causal chunk after its history, then the decodes in one batch."""

    note = "PyTorch's attention, a step's chunk and decodes one after the other"

    def __init__(self, torch: Any, shape: AttentionShape, options: dict[str, Any]) -> None:
        self._torch = torch
        self._shape = shape
        self._options = options

    def __call__(self, chunk: int, history: int, decodes: int, context: int) -> Call:
        """See :class:`AttentionCalls`."""
        from torch.nn.attention.bias import causal_lower_right  # pyright: ignore[reportMissingImports]

        shape = self._shape
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

    def _random(self, shape: tuple[int, ...]) -> Any:
        return self._torch.randn(shape, **self._options)


class PagedAttention:
    """vLLM's FlashAttention (version 3 on Hopper, 2 elsewhere) over a paged KV cache: chunk and decodes in one call,
    planned once as vLLM plans a step for all of its layers (``v1/attention/backends/flash_attn.py``)."""

    def __init__(
        self,
        torch: Any,
        flash: Any,
        shape: AttentionShape,
        options: dict[str, Any],
        pool_bytes: int = POOL_BYTES,
    ) -> None:
        self._torch = torch
        self._flash = flash
        self._shape = shape
        self._options = options
        self._version = 3 if torch.cuda.get_device_capability()[0] == 9 else 2
        self.note = f"vLLM's FlashAttention {self._version}, a step's chunk and decodes in one call"
        size = (BLOCK_TOKENS, shape.kv_heads, shape.head_dim)
        block_bytes = 2 * BLOCK_TOKENS * shape.kv_heads * shape.head_dim * 2
        self._blocks = pool_bytes // block_bytes
        self._keys, self._values = (torch.randn((self._blocks, *size), **options) for _ in range(2))

    def __call__(self, chunk: int, history: int, decodes: int, context: int) -> Call:
        """See :class:`AttentionCalls`."""
        torch, shape = self._torch, self._shape
        queries = [chunk] * bool(chunk) + [1] * decodes
        lengths = [history + chunk] * bool(chunk) + [context + 1] * decodes
        starts = self._whole([0, *itertools.accumulate(queries)])
        used = self._whole(lengths)
        wide = -(-max(lengths) // BLOCK_TOKENS)
        tables = itertools.cycle(
            [
                torch.randint(
                    self._blocks, (len(lengths), wide), device=self._options["device"], dtype=torch.int32
                )
                for _ in range(TABLES)
            ]
        )
        states = torch.randn((sum(queries), shape.heads, shape.head_dim), **self._options)
        out = torch.empty_like(states)
        more: dict[str, Any] = {}
        if self._version == 3:
            more["scheduler_metadata"] = self._flash.get_scheduler_metadata(
                batch_size=len(lengths),
                max_seqlen_q=max(queries),
                max_seqlen_k=max(lengths),
                num_heads_q=shape.heads,
                num_heads_kv=shape.kv_heads,
                headdim=shape.head_dim,
                cache_seqlens=used,
                qkv_dtype=self._options["dtype"],
                cu_seqlens_q=starts,
                page_size=BLOCK_TOKENS,
                causal=True,
            )
        return lambda: self._flash.flash_attn_varlen_func(
            q=states,
            k=self._keys,
            v=self._values,
            out=out,
            cu_seqlens_q=starts,
            max_seqlen_q=max(queries),
            seqused_k=used,
            max_seqlen_k=max(lengths),
            causal=True,
            block_table=next(tables),
            fa_version=self._version,
            **more,
        )

    def _whole(self, values: list[int]) -> Any:
        return self._torch.tensor(values, device=self._options["device"], dtype=self._torch.int32)
