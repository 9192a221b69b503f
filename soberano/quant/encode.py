"""Turn float32 weights into blocks: round to nearest, without a search.

The legacy formats give the bytes that ggml's reference gives. The k-quants are plain: each group takes the scale that
spans it, the scales are rounded to their 6 or 8 bits, and the codes are then rounded against the rounded scales. So are
the codebooks, but for MXFP4, whose bytes are the reference's again.
NumPy only.
"""

from collections.abc import Callable

import numpy as np

from soberano.backends.numpy_ import HOME
from soberano.core.errors import InputError, Unsupported
from soberano.quant.blocks import BlockFormat
from soberano.quant.codebooks import IQ4_NL, IQ4_XS, MXFP4, half_powers
from soberano.quant.kquants import Q4_K, Q5_K, Q6_K
from soberano.quant.legacy import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from soberano.quant.plain import BF16, F16, F32

Encoder = Callable[[np.ndarray, np.ndarray], None]
"""Fills `out` (N,) of a format's layout from `w` (N, block) float32."""


def encode(format: type[BlockFormat], weights: np.ndarray) -> np.ndarray:
    """Encode weights (..., I) as raw (..., row bytes) uint8.

    Raises ShapeError where a row is not whole blocks, InputError where a block cannot hold a value (not finite, or too
    large for a float16 scale), Unsupported where we can read a format but not write it.
    """
    weights = np.asarray(weights, np.float32)
    row_bytes = format.row_bytes(weights.shape[-1])
    if format not in _ENCODERS:
        raise Unsupported(f"{format.name} cannot be written; choose one of {', '.join(f.name for f in _ENCODERS)}")
    if not format.plain and not np.isfinite(weights).all():
        raise InputError(f"{format.name} cannot hold infinity or NaN, and the weights have some; clean them or use F32")
    out = np.zeros(weights.size // format.block, format.layout)
    with np.errstate(over="ignore", invalid="ignore"):
        _ENCODERS[format](out, weights.reshape(-1, format.block))
    halves = [] if format.plain else [name for name in out.dtype.names or () if out.dtype[name] == np.float16]
    if not all(np.isfinite(out[name]).all() for name in halves):
        raise InputError(
            f"{format.name} cannot hold {np.abs(weights).max():.3g}: its scale is a float16, at most 65504; "
            f"scale the weights or use F32"
        )
    return out.view(np.uint8).reshape(*weights.shape[:-1], row_bytes)


def _inverse(d: np.ndarray) -> np.ndarray:
    """1 / d, and 0 where d is 0 or so small that 1 / d is infinite."""
    usable = np.abs(d) > np.float32(2**-126)
    return np.where(usable, 1 / np.where(usable, d, np.float32(1)), np.float32(0))


def _extreme(w: np.ndarray) -> np.ndarray:
    """The value of largest magnitude along the last axis, with its sign, kept as an axis of 1."""
    return np.take_along_axis(w, np.abs(w).argmax(axis=-1, keepdims=True), axis=-1)


def _pack_nibbles(codes: np.ndarray) -> np.ndarray:
    return (codes[:, :16] & 15) | ((codes[:, 16:] & 15) << 4)


def _pack_fifth_bit(codes: np.ndarray) -> np.ndarray:
    return np.packbits(codes >> 4, axis=-1, bitorder="little")


def _put_nibbles(out: np.ndarray, codes: np.ndarray) -> None:
    """Of 32 codes in a block the first 16 in the low halves of its bytes."""
    out["q"] = _pack_nibbles(codes)


def _put_five(out: np.ndarray, codes: np.ndarray) -> None:
    out["q"], out["high"] = _pack_nibbles(codes), _pack_fifth_bit(codes)


def _put_bytes(out: np.ndarray, codes: np.ndarray) -> None:
    out["q"] = codes ^ 128


def _put_runs(out: np.ndarray, codes: np.ndarray) -> None:
    """Q4_K and, with its fifth bits, Q5_K."""
    pairs = codes.reshape(-1, 4, 2, 32)
    out["q"] = ((pairs[:, :, 0] & 15) | ((pairs[:, :, 1] & 15) << 4)).reshape(-1, 128)
    if "high" in (out.dtype.names or ()):
        groups = codes.reshape(-1, 8, 32)
        out["high"] = ((groups >> 4) << np.arange(8, dtype=np.uint8)[:, None]).sum(axis=1, dtype=np.uint8)


def _put_six(out: np.ndarray, codes: np.ndarray) -> None:
    runs = codes.reshape(-1, 2, 4, 32)  # per 128 weights four runs: two in the low nibbles, two in the high ones
    out["low"] = ((runs[:, :, :2] & 15) | ((runs[:, :, 2:] & 15) << 4)).reshape(-1, 128)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    out["high"] = ((runs >> 4) << shifts).sum(axis=2, dtype=np.uint8).reshape(-1, 64)


def _put_groups(out: np.ndarray, codes: np.ndarray) -> None:
    out["q"] = _pack_nibbles(codes.reshape(-1, 32)).reshape(-1, 128)


def _symmetric(bits: int) -> Encoder:
    """Q4_0 and Q5_0: the extreme value of a block gets code 0, exactly."""
    zero, top = 1 << (bits - 1), (1 << bits) - 1

    def fill(out: np.ndarray, w: np.ndarray) -> None:
        d = _extreme(w) / np.float32(-zero)
        codes = np.trunc(w * _inverse(d) + np.float32(zero + 0.5)).clip(0, top).astype(np.uint8)
        out["d"] = d[:, 0]
        (_put_nibbles if bits == 4 else _put_five)(out, codes)

    return fill


def _affine(bits: int) -> Encoder:
    """Q4_1 and Q5_1: code 0 is the least value of a block, the top code its greatest."""
    top = (1 << bits) - 1

    def fill(out: np.ndarray, w: np.ndarray) -> None:
        low = w.min(axis=-1, keepdims=True)
        d = (w.max(axis=-1, keepdims=True) - low) / np.float32(top)
        codes = np.trunc((w - low) * _inverse(d) + np.float32(0.5)).clip(0, top).astype(np.uint8)
        out["d"], out["min"] = d[:, 0], low[:, 0]
        (_put_nibbles if bits == 4 else _put_five)(out, codes)

    return fill


def _q8_0(out: np.ndarray, w: np.ndarray) -> None:
    d = np.abs(w).max(axis=-1, keepdims=True) / np.float32(127)
    scaled = w * _inverse(d)
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))  # half away from zero, as C's roundf
    out["d"], out["q"] = d[:, 0], codes.clip(-127, 127).astype(np.int8).view(np.uint8)


def _k_affine(bits: int) -> Encoder:
    """Q4_K and Q5_K: each group spans from its least value (at most 0) to its greatest."""
    top = (1 << bits) - 1

    def fill(out: np.ndarray, w: np.ndarray) -> None:
        w = w.reshape(-1, 8, 32)
        depth = -w.min(axis=-1).clip(None, 0)  # (N, 8), what is subtracted
        step = (w.max(axis=-1).clip(0, None) + depth) / np.float32(top)
        for name, wanted in (("d", step), ("m", depth)):
            out[name] = wanted.max(axis=-1) / np.float32(63)
        d, m = out["d"].astype(np.float32)[:, None], out["m"].astype(np.float32)[:, None]
        sub = np.rint(step * _inverse(d)).clip(0, 63)
        submin = np.rint(depth * _inverse(m)).clip(0, 63)
        codes = np.rint((w + (m * submin)[..., None]) * _inverse(d * sub)[..., None]).clip(0, top).astype(np.uint8)
        out["scales"] = _pack_six_bits(sub.astype(np.uint8), submin.astype(np.uint8))
        _put_runs(out, codes)

    return fill


def _pack_six_bits(sub: np.ndarray, submin: np.ndarray) -> np.ndarray:
    """The inverse of kquants' unpacking: (N, 8) twice -> (N, 12)."""
    first = sub[:, :4] | ((sub[:, 4:] >> 4) << 6)
    second = submin[:, :4] | ((submin[:, 4:] >> 4) << 6)
    return np.concatenate([first, second, (sub[:, 4:] & 15) | ((submin[:, 4:] & 15) << 4)], axis=-1)


def _q6_k(out: np.ndarray, w: np.ndarray) -> None:
    w = w.reshape(-1, 16, 16)
    step = _extreme(w)[..., 0] / np.float32(-32)  # (N, 16), signed: the extreme value gets code 0
    out["d"] = _extreme(step)[:, 0] / np.float32(-128)
    d = out["d"].astype(np.float32)[:, None]
    sub = np.rint(step * _inverse(d)).clip(-128, 127)
    codes = np.rint(w * _inverse(d * sub)[..., None] + np.float32(32)).clip(0, 63).astype(np.uint8)
    out["scales"] = sub
    _put_six(out, codes)


_IQ4_MIDDLES = np.convolve(np.array(IQ4_NL.codebook, np.float32), [0.5, 0.5], "valid").astype(np.float32)
_E2M1_MIDDLES = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], np.float32)
_IQ4_LOW = np.float32(IQ4_NL.codebook[0])


def _iq4_nl(out: np.ndarray, w: np.ndarray) -> None:
    out["d"] = _extreme(w)[:, 0] / _IQ4_LOW
    d = out["d"].astype(np.float32)[:, None]
    _put_nibbles(out, np.searchsorted(_IQ4_MIDDLES, w * _inverse(d)).astype(np.uint8))


def _iq4_xs(out: np.ndarray, w: np.ndarray) -> None:
    w = w.reshape(-1, 8, 32)
    step = _extreme(w)[..., 0] / _IQ4_LOW  # (N, 8), signed: the extreme value of a group gets code 0
    out["d"] = _extreme(step)[:, 0] / np.float32(-32)
    d = out["d"].astype(np.float32)[:, None]
    sub = np.rint(step * _inverse(d)).clip(-32, 31)
    codes = np.searchsorted(_IQ4_MIDDLES, w * _inverse(d * sub)[..., None]).astype(np.uint8)
    _put_groups(out, codes)
    scales = (sub + 32).astype(np.uint8)
    out["low"] = (scales[:, 0::2] & 15) | (scales[:, 1::2] & 15) << 4
    out["high"] = ((scales >> 4).reshape(-1, 2, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(axis=-1, dtype=np.uint8)


def _mxfp4(out: np.ndarray, w: np.ndarray) -> None:
    """Floats of 4 bits whose largest exponent is that of the largest weight; what is above their range is clipped."""
    top = np.abs(w).max(axis=-1)
    exponent = np.floor(np.log2(np.where(top > 0, top, 1))) + 125
    out["e"] = np.where(top > 0, exponent, 0).clip(0, 254)[:, None].astype(np.uint8)
    d = half_powers(HOME, out["e"])
    codes = (np.abs(w)[..., None] > d[..., None] * _E2M1_MIDDLES).sum(axis=-1, dtype=np.uint8)
    _put_nibbles(out, np.where((w < 0) & (codes > 0), codes | 8, codes))


def _plain(out: np.ndarray, w: np.ndarray) -> None:
    out["w"] = w[:, 0]


def _bf16(out: np.ndarray, w: np.ndarray) -> None:
    bits = np.ascontiguousarray(w[:, 0]).view(np.uint32)
    nearest = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16  # ties to even; a carry may round up to infinity
    out["w"] = np.where(np.isnan(w[:, 0]), (bits >> 16) | 0x40, nearest)  # a NaN stays one, and quiet


_ENCODERS: dict[type[BlockFormat], Encoder] = {
    F32: _plain,
    F16: _plain,
    BF16: _bf16,
    Q4_0: _symmetric(4),
    Q4_1: _affine(4),
    Q5_0: _symmetric(5),
    Q5_1: _affine(5),
    Q8_0: _q8_0,
    Q4_K: _k_affine(4),
    Q5_K: _k_affine(5),
    Q6_K: _q6_k,
    IQ4_NL: _iq4_nl,
    IQ4_XS: _iq4_xs,
    MXFP4: _mxfp4,
}

PUT_CODES: dict[type[BlockFormat], Encoder] = {
    Q4_0: _put_nibbles,
    Q4_1: _put_nibbles,
    Q5_0: _put_five,
    Q5_1: _put_five,
    Q8_0: _put_bytes,
    Q4_K: _put_runs,
    Q5_K: _put_runs,
    Q6_K: _put_six,
    IQ4_NL: _put_nibbles,
    IQ4_XS: _put_groups,
    MXFP4: _put_nibbles,
}
"""For each format with codes, what puts codes (N, block) uint8 into blocks (N,) whose scales are there already."""
