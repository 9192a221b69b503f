"""Kernels of soberano/ops/knn.py for JAX on a CPU. Source: knn.cc."""

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops.knn import check_ids, lengths, prepare
from soberano.ops.knn_native import KINDS
from soberano.quant.vectors import Vectors

_NONE = np.empty(0, np.float32)


def nearest(queries: Array, base: Vectors, k: int, *, upper: bool = False) -> tuple[Array, Array]:
    """Scan row by row in one fixed order, so that a query's scores do not depend on its batch."""
    native_plan()
    queries = prepare("nearest", queries, base, k)
    reach = lengths(queries) if upper and base.error is not None else _NONE
    shape = queries.shape[0], k
    call = jax.ffi.ffi_call(
        native.target("soberano_nearest_ffi"),
        (jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int32)),
        vmap_method="sequential",
    )
    rest = (_NONE if part is None else part for part in (base.scale, base.error, base.half))
    scores, ids = call(queries, reach, base.data, *rest, kind=np.int32(KINDS[base.kind]))
    return scores, ids


def rescore(queries: Array, base: Vectors, ids: Array) -> Array:
    """Score by the arithmetic of the scan."""
    native_plan()
    if base.kind not in ("float32", "bfloat16"):
        raise Unsupported(f"knn.cc rescores float32 and bfloat16 vectors, not {base.kind}")
    queries = prepare("rescore", queries, base)
    check_ids(queries, base, ids)
    result = jax.ShapeDtypeStruct(ids.shape, jnp.float32)
    call = jax.ffi.ffi_call(native.target("soberano_rescore_ffi"), result, vmap_method="sequential")
    half = _NONE if base.half is None else base.half
    return call(queries, base.data, half, ids, kind=np.int32(KINDS[base.kind]))
