"""32-bit words: products and orders that every home computes bit for bit alike, without 64-bit integers.

JAX has no 64-bit integers unless a process asks for them, so nothing here needs one.
"""

import numpy as np

from soberano.backends.homes import namespace
from soberano.core.types import Array

_SIGN = np.uint32(0x80000000)


def wide_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Multiply uint32 by uint32 into (high, low) words of the 64-bit product; the shapes broadcast.

    One of the two may be an np.uint32; arrays have at least one axis, for NumPy warns when a lone number wraps around.
    """
    a_low, a_high = a & 0xFFFF, a >> 16
    b_low, b_high = b & 0xFFFF, b >> 16
    middle, cross = a_high * b_low, a_low * b_high
    carry = ((a_low * b_low) >> 16) + (middle & 0xFFFF) + (cross & 0xFFFF)  # at most 3 * (2**16 - 1): no overflow
    return a_high * b_high + (middle >> 16) + (cross >> 16) + (carry >> 16), a * b


def ordered(x: Array) -> Array:
    """Map float32 to uint32 of the same shape so that a < b exactly where word(a) < word(b). NaN has no place in it.

    The bits of positive floats already count upwards; those of negative ones count downwards, so they are flipped.
    """
    xp = namespace(x)
    bits = xp.where(x == 0, 0.0, x).astype(xp.float32).view(xp.uint32)  # -0.0 and 0.0 are one value
    return xp.where(bits >= _SIGN, ~bits, bits | _SIGN)
