"""The memory that is told before a run is what XLA says of the program, and a run that cannot fit is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.backends.tree import leaves, map_arrays
from soberano.core.errors import CapacityError
from soberano.train.adapters import Shape, fresh
from soberano.train.plan import adapter_bytes, check, memory_plan
from soberano.train.step import Batch, loss_and_grad
from tests.tiny import write_tiny_llama

SHAPE = Shape(rank=8, ranks=(("ffn_down", 20),))
FORMS: dict[str, dict[str, Any]] = {
    "wide": {"width": 256, "ffn": 1024, "heads": 4, "kv_heads": 2, "layers": 4},
    "many tokens": {"width": 256, "ffn": 512, "heads": 4, "kv_heads": 2, "vocab": 20000, "layers": 3},
}


@pytest.mark.parametrize("backend", ["cpu", "xla"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows,length", [(1, 1024), (3, 512)])
def test_it_is_what_xla_says(backend: str, form: str, rows: int, length: int, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf", context=2048, **FORMS[form])
    with soberano.load(tmp_path / "tiny.gguf", backend=backend, context=64) as model:
        run = loss_and_grad(model.home, model.module_name, model.config, model.plan, SHAPE, exact=False)
        pairs = map_arrays(model.home.asarray, fresh(model.module, model.config, SHAPE, 0))
        tokens = np.zeros((rows, length), np.int32)
        batch = Batch(*(model.home.asarray(tokens) for _ in range(4)))
        said = run.lower(pairs, model.weights, batch).compile().memory_analysis()
        right = said.temp_size_in_bytes + said.argument_size_in_bytes + said.output_size_in_bytes
        plan = memory_plan(model, SHAPE, rows, length)
        assert plan.program == pytest.approx(right, rel=0.15)
        assert adapter_bytes(model.module, model.config, SHAPE) == sum(array.nbytes for array in leaves(pairs))


def test_what_cannot_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf", context=2048)
    with soberano.load(tmp_path / "tiny.gguf", backend="numpy") as model:
        enough = memory_plan(model, SHAPE, 1, 128).more
        check(model, SHAPE, 1, 128, enough)
        with pytest.raises(CapacityError, match="which is not enough; --rows 1 --context 128 would fit"):
            check(model, SHAPE, 4, 256, enough)
        with pytest.raises(CapacityError, match="no shorter rows would fit: take a smaller model"):
            check(model, SHAPE, 1, 128, 1000)
