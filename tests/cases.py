"""Shapes of real models, named once: tests check them small, benchmarks time them whole."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer; the letters are those of soberano.core.types."""

    name: str
    layers: int  # L
    width: int  # D
    ffn: int  # F
    vocab: int  # V
    heads: int  # H
    key_heads: int  # K
    head: int  # E
    eps: float
    rope_base: float | None  # None: no rotary positions
    pairing: str = "interleaved"  # in GGUF; the original files of every one of them say halves


SMOLLM2_135M = Shape("smollm2-135m", 30, 576, 1536, 49152, 9, 3, 64, 1e-5, 100000.0)
GEMMA3_270M = Shape("gemma3-270m", 18, 640, 2048, 262144, 4, 1, 256, 1e-6, 1000000.0, "halves")
QWEN25_05B = Shape("qwen2.5-0.5b", 24, 896, 4864, 151936, 14, 2, 64, 1e-6, 1000000.0, "halves")
LLAMA32_1B = Shape("llama3.2-1b", 16, 2048, 8192, 128256, 32, 8, 64, 1e-5, 500000.0)
MINILM_L6 = Shape("all-minilm-l6-v2", 6, 384, 1536, 30522, 12, 12, 32, 1e-12, None)

MODELS = [SMOLLM2_135M, GEMMA3_270M, QWEN25_05B, LLAMA32_1B, MINILM_L6]
DECODERS = [shape for shape in MODELS if shape.rope_base]
