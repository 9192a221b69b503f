"""A merged model answers as the model with its adapter, keeps the rest byte for byte, and tells what is lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.backends.homes import home
from soberano.bench.score import logits
from soberano.core.errors import InputError, UnsupportedModel
from soberano.core.hashing import sha256
from soberano.formats import gguf
from soberano.models.adapter import Pair
from soberano.train.adapters import Shape, fresh
from soberano.train.export import write_gguf
from soberano.train.merge import ADAPTER, BASE, advice, merge, total
from tests.tiny import write_tiny_llama

SHAPE = Shape(rank=3, alpha=6.0, products=("attn_q", "ffn_down"), ranks=(("attn_q", 5),))
TEXT = list(range(3, 40))


def made(
    folder: Path, kind: str, *, size: float = 0.3, base_hash: str | None = None
) -> tuple[Path, Path, dict[str, Pair]]:
    """(a tiny model of one format, an adapter, its matrices)."""
    base, adapter, rng = folder / "base.gguf", folder / "adapter.gguf", np.random.default_rng(5)
    write_tiny_llama(
        base, types=lambda name: "F32" if "norm" in name else kind, width=256, more={"x.small": np.int8(-3)}
    )
    with soberano.load(base, backend="numpy") as model:
        pairs = fresh(model.module, model.config, SHAPE, 0)
    pairs = {n: Pair(p.a, (size * rng.normal(size=p.b.shape)).astype(np.float32) / 16) for n, p in pairs.items()}
    pairs["ffn_down"].b[1] = 0  # a layer that nothing was learnt in
    write_gguf(adapter, pairs, SHAPE, architecture="llama", name="a", base_hash=base_hash or sha256(base))
    return base, adapter, pairs


def rows(path: Path, adapter: Path | None = None) -> np.ndarray:
    with soberano.load(path, backend="numpy", adapter=adapter) as model:
        return np.concatenate(list(logits(model, TEXT, single=False)))


@pytest.mark.parametrize("kind,to", [("F32", None), ("Q4_K", "F32"), ("F16", "f32")])
def test_it_answers_as_the_adapter_does(kind: str, to: str | None, tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path, kind)
    found = merge(base, adapter, tmp_path / "merged.gguf", kind=to)
    right = rows(base, adapter)
    np.testing.assert_allclose(rows(tmp_path / "merged.gguf"), right, atol=1e-4 * np.abs(right).max())
    assert np.abs(rows(base) - right).max() > 0.1, "the adapter changes something"
    assert total(found).kept == pytest.approx(1, abs=1e-4) and total(found).error < 1e-3
    assert "answers as the adapter does" in advice(found)


def test_what_is_not_merged_stays(tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path, "Q4_K")
    found = merge(base, adapter, tmp_path / "merged.gguf")
    with gguf.read(base) as old, gguf.read(tmp_path / "merged.gguf") as new:
        assert list(old.tensors) == list(new.tensors)
        changed = {name for name in old.tensors if not np.array_equal(old.raw(name), new.raw(name))}
        assert (
            changed
            == {each.name for each in found}
            == {f"blk.{i}.attn_q.weight" for i in (0, 1)} | {"blk.0.ffn_down.weight"}
        )
        assert {key: (new.metadata[key], new.kinds[key]) for key in old.metadata} == {
            key: (value, old.kinds[key]) for key, value in old.metadata.items()
        }
        assert new.metadata[BASE] == sha256(base) and new.metadata[ADAPTER] == sha256(adapter)
    again = merge(base, adapter, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "merged.gguf").read_bytes() and again == found


@pytest.mark.parametrize("kind,to", [("Q4_0", None), ("Q6_K", None), ("Q8_0", None), ("Q4_K", "Q8_0"), ("F32", "Q4_1")])
def test_the_report_tells_what_is_in_the_file(kind: str, to: str | None, tmp_path: Path) -> None:
    base, adapter, pairs = made(tmp_path, kind)
    found = {each.name: each for each in merge(base, adapter, tmp_path / "merged.gguf", kind=to)}
    whole: list[Any] = []
    with gguf.read(base) as old, gguf.read(tmp_path / "merged.gguf") as new:
        for name, told in found.items():
            _, layer, product, _ = name.split(".")
            w, q = (f.tensors[name].format.dequantize(home("numpy"), f.raw(name)) for f in (old, new))
            pair, scale = pairs[product], SHAPE.scale_of(product)
            update = scale * pair.b[int(layer)].astype(np.float64) @ pair.a[int(layer)]
            moved = q.astype(np.float64) - w
            assert told.kept == pytest.approx((moved * update).sum() / (update**2).sum(), rel=1e-4)
            assert told.error == pytest.approx(np.linalg.norm(moved - update) / np.linalg.norm(update), rel=1e-4)
            assert told.changed == (q != w).sum() and told.format == (to or kind)
            whole.append((moved * update).sum())
    assert total(found.values()).kept > 0.85, "rounded to nearest or at random, but not forgotten"


def test_a_tiny_update_in_few_bits_is_not_forgotten(tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path, "Q4_0", size=0.01)
    whole = total(merge(base, adapter, tmp_path / "merged.gguf"))
    assert 0.7 < whole.kept < 1.3 and whole.noise > 1 and whole.changed < whole.weights / 10
    assert "--type Q8_0" in advice([whole])


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path, "F32", base_hash="0" * 64)
    with pytest.raises(InputError, match="was trained on the file with SHA-256 0000"):
        merge(base, adapter, tmp_path / "merged.gguf")
    base, adapter, _ = made(tmp_path, "F32")
    with pytest.raises(InputError, match="is the model itself; give the merged one another name"):
        merge(base, adapter, base)
    with pytest.raises(UnsupportedModel, match="no weight format is called 'Q9'; there are F32"):
        merge(base, adapter, tmp_path / "merged.gguf", kind="Q9")
    assert not (tmp_path / "merged.gguf").exists() and list(tmp_path.glob("*part*")) == []
