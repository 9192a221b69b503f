"""Tensors that a file holds as one and a model has apart: queries, keys and values; a gate and what it gates.

An architecture says which, FUSED = {"attn_qkv": ("attn_q", "attn_k", "attn_v")}; it reads like the paper then, and the
products of the parts have a kernel. Rows lie one after another in every format, so a part is a view: nothing is copied.
"""

from collections.abc import Mapping
from typing import Any

from soberano.formats.tensors import TensorFile


def split_fused(file: TensorFile, module: Any, shapes: Mapping[str, tuple[int, ...]], layers: int) -> None:
    """Give the file the parts of each fused tensor in its place. One that is not as long as its parts is left alone.

    Raises FileError where the file has a part by itself as well.
    """
    for fused, parts in getattr(module, "FUSED", {}).items():
        for kind, end in (("weight", ""), ("bias", "_bias")):
            rows = [shapes[part + end][0] for part in parts if part + end in shapes]
            for i in range(layers):
                info = file.tensors.get(f"blk.{i}.{fused}.{kind}")
                if info is not None and len(rows) == len(parts) and info.shape[:1] == (sum(rows),):
                    names = [f"blk.{i}.{part}.{kind}" for part in parts]
                    file.split(info.name, dict(zip(names, rows, strict=True)))
