"""Gradient rule of soberano/ops/rope.py."""

from typing import Any

from soberano.core.types import Array
from soberano.ops import rope as ops
from soberano.ops.rope import Pairing, Rotation


def rope(
    grad: Array, result: Array, x: Array, rotation: Rotation, *, pairing: Pairing = "interleaved"
) -> tuple[Any, ...]:
    """A rotation is undone by turning back; its transpose is that."""
    return ops.rope(grad, Rotation(rotation.cos, -rotation.sin), pairing=pairing), None
