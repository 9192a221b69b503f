"""A run learns, goes on to the last bit where it was stopped, and refuses to go on as another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.core.errors import FileError, InputError
from soberano.train import checkpoint
from soberano.train.adapters import Shape
from soberano.train.encode import Encoded
from soberano.train.optimizer import Rates
from soberano.train.run import Run, Settings
from tests.tiny import write_tiny_llama

SETTINGS = Settings(shape=Shape(rank=4), rates=Rates(rate=1e-2), epochs=3, length=32, accumulate=2)


def texts(count: int) -> list[Encoded]:
    """Countings: the next token is the last one plus one."""
    starts = np.random.default_rng(0).integers(3, 40, count)
    return [Encoded(np.arange(s, s + 14, dtype=np.int32), np.arange(14) > 0) for s in starts]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_llama(path)
    return path


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_it_learns(backend: str, tiny: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    with soberano.load(tiny, backend=backend) as model:
        run = Run(model, texts(24), texts(4), SETTINGS, tmp_path)
        before = run.evaluate(texts(4))
        run.train(rows.append)
        assert run.evaluate(texts(4)) < before / 2
        assert run.seen.best == pytest.approx(min(row["held_out_loss"] for row in rows if "held_out_loss" in row))
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] / 2 and len(losses) == 3 * run.per_epoch


def test_it_goes_on_to_the_last_bit(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    with soberano.load(tiny, backend="cpu") as model:
        whole = Run(model, texts(24), texts(4), SETTINGS, tmp_path / "a")
        whole.train()
        cut = Run(model, texts(24), texts(4), SETTINGS, tmp_path / "b")

        def stop(row: dict[str, Any]) -> None:
            if row["step"] == run.per_epoch + 2:
                raise KeyboardInterrupt

        run = cut
        with pytest.raises(KeyboardInterrupt):
            cut.train(stop)
        again = Run(model, texts(24), texts(4), SETTINGS, tmp_path / "b")
        assert 0 < again.seen.steps < whole.seen.steps
        again.train()
        for name, pair in whole.pairs.items():
            for ours, theirs in zip(again.pairs[name], pair, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(InputError, match="holds a run with other settings"):
            Run(model, texts(24), texts(4), replace(SETTINGS, seed=1), tmp_path / "b")
        with pytest.raises(InputError, match="holds a run with other settings"):
            Run(model, texts(23), texts(4), SETTINGS, tmp_path / "b")
        (tmp_path / "b" / checkpoint.NAME).write_bytes(b"PK nonsense")
        with pytest.raises(FileError, match="is damaged or of another run"):
            Run(model, texts(24), texts(4), SETTINGS, tmp_path / "b")


def test_patience_ends_it(tiny: Path, tmp_path: Path) -> None:
    rates = Rates(rate=1e-9)
    with soberano.load(tiny, backend="cpu") as model:
        run = Run(model, texts(8), texts(4), replace(SETTINGS, rates=rates, epochs=50, patience=2), tmp_path)
        run.train()
        assert run.seen.epoch < 50


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"length": 0}, {"rates": Rates(rate=2.0)}, {"rates": Rates(clip=0.0)}]
)
def test_settings_that_cannot_be(wrong: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    with soberano.load(tiny, backend="numpy") as model, pytest.raises(InputError):
        Run(model, texts(2), [], replace(SETTINGS, **wrong), tmp_path)
