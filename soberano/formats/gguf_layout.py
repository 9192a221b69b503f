"""The words of the GGUF format that its reader and its writer share: magic, value kinds, limits, names of types.

    "GGUF"  u32 version  u64 tensors  u64 pairs
    pairs   x (string key, u32 kind, value)              string: u64 length, UTF-8; array: u32 kind, u64 count, elements
    tensors x (string name, u32 axes, u64 each axis, fastest first, u32 type, u64 offset from the start of the data)
    zeros to a multiple of the alignment, then each tensor at its offset

All numbers are little-endian. Version 2 has the same layout as version 3; version 1 had 32-bit counts.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

KINDS = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "array", "u64", "i64", "f64")
"""Kinds of metadata values; the place is the number in the file."""

CODES = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q",
    "f32": "f", "f64": "d", "bool": "B",
}  # fmt: skip
"""Kind of a number -> its letter for struct and NumPy's array protocol, where "<" goes in front."""

# Bounds of what a file may say, each above any real model and below what could hurt. A file may be sparse, so its size
# bounds nothing; and a letter takes up to four times, an element of an array up to thirty times its bytes in Python.
# Together they keep what is read of a file below about half a gigabyte.
MAX_HEAD = 1 << 26  # bytes before the weights; a quarter of a million tokens with their merges take about 15 MB
MAX_KEY = 65_535  # bytes, the format's own
MAX_NAME = 63  # bytes: ggml keeps 64 with the final zero
MAX_AXES = 4
MAX_DEPTH = 4  # arrays in arrays; no known writer nests at all
MAX_NESTED = 65_536  # arrays that are elements of others, all together
MAX_PAIRS = 65_536
MAX_TENSORS = 65_536
MAX_ELEMENTS = 1 << 22  # of all arrays together; the largest vocabularies with merges have about 1.3 million
MAX_STRING = 1 << 20  # bytes; the longest are chat templates, of which soberano.text.chat believes no more

_GGML = (
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16",
    "I32", "I64", "F64", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4",
    "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4", "NVFP4", "Q1_0", "Q2_0",
)  # fmt: skip
_REMOVED = {4, 5, 31, 32, 33, 36, 37, 38}
_FORK = {*range(97, 100), *range(133, 159), *range(202, 400)}


def type_text(ggml: int) -> str:
    """Name a ggml tensor type for a message, known to us or not.

    >>> type_text(16)
    'IQ2_XXS (ggml type 16)'
    """
    if ggml in _REMOVED:
        return f"{_GGML[ggml]} (ggml type {ggml}), which ggml itself has removed"
    if ggml < len(_GGML):
        return f"{_GGML[ggml]} (ggml type {ggml})"
    if ggml in _FORK:
        return f"ggml type {ggml}, which only the fork ik_llama.cpp writes"
    return f"ggml type {ggml}, which no version of ggml that we know has"
