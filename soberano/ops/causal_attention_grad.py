"""Gradient rule of soberano/ops/causal_attention.py: an op of its own, which has a kernel."""

from typing import Any

from soberano.core.types import Array
from soberano.ops.causal_attention import causal_attention_back


def causal_attention(grad: Array, result: Array, *args: Any, **how: Any) -> tuple[Any, ...]:
    """Segments and window are whole numbers; sinks are frozen."""
    return (*causal_attention_back(grad, result, *args, **how), None, None, None)
