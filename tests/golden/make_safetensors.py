"""Make small.safetensors with the library of the format and torch; see tokens.md for the versions."""

from pathlib import Path

import torch
from safetensors.torch import save_file

a = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 3
tensors = {
    "a": a,
    "b": a.to(torch.bfloat16),
    "c": a.to(torch.float16),
    "ids": torch.arange(4),
    "scalar": torch.tensor(2.5),
}
save_file(tensors, Path(__file__).with_name("small.safetensors"), metadata={"format": "pt"})
