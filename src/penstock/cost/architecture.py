"""What the kernel times of a layer depend on, so that they are found for every model that has such layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penstock.spec.layers import DenseMlp, GroupedAttention, LayerKind
from penstock.spec.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Dimensions of a layer and of the model's ends, whatever the number of layers and the model's name.

    ``intermediate_size`` is None where the MLP is no part of it: routed experts, which are costed apart.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    has_qk_norm: bool
    intermediate_size: int | None
    vocab_size: int

    @classmethod
    def of(cls, model: ModelSpec, kind: LayerKind) -> Architecture | None:
        """That of layers of one kind. None for attention other than grouped-query attention to all tokens."""
        attention = kind.attention
        if not isinstance(attention, GroupedAttention) or attention.window is not None or attention.has_gate:
            return None
        return cls(
            hidden_size=model.hidden_size,
            num_heads=attention.num_heads,
            num_kv_heads=attention.num_kv_heads,
            head_dim=attention.head_dim,
            has_qk_norm=attention.has_qk_norm,
            intermediate_size=kind.mlp.intermediate_size if isinstance(kind.mlp, DenseMlp) else None,
            vocab_size=model.vocab_size,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """From the shape that :meth:`as_json` gives."""
        return cls(**data)

    def as_json(self) -> dict[str, Any]:
        """The members by name."""
        return asdict(self)

    def answers(self, wanted: Architecture, *, without_mlp: bool) -> bool:
        """Whether times measured of this architecture hold for ``wanted``. ``without_mlp``: for all but the MLP."""
        mine, own = self.as_json(), wanted.as_json()
        if without_mlp:
            del mine["intermediate_size"], own["intermediate_size"]
        return mine == own

    def describe(self) -> str:
        """In words: hidden 4096, 32 heads (8 KV) x 128, MLP 14336, vocabulary 128256."""
        norm = " with norms of queries and keys" if self.has_qk_norm else ""
        mlp = "" if self.intermediate_size is None else f", MLP {self.intermediate_size}"
        return (
            f"hidden {self.hidden_size}, {self.num_heads} heads ({self.num_kv_heads} KV) x {self.head_dim}{norm}{mlp}, "
            f"vocabulary {self.vocab_size}"
        )
