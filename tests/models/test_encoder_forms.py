"""What folders say in more than one way, and what an encoder must not be told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soberano.core.errors import FileError, UnsupportedModel
from soberano.formats import safetensors
from soberano.models.load import load_encoder
from tests.formats.safetensors_files import write_shards
from tests.tiny_encoders import TEXTS, Tiny

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "nomic's own code": (
        "nomic_bert",
        {
            "n_embd": 64,
            "n_layer": 4,
            "n_head": 2,
            "n_inner": 96,
            "n_positions": 8192,
            "max_position_embeddings": None,
            "max_trained_positions": 64,
            "layer_norm_epsilon": 1e-5,
            "rotary_emb_base": 1000,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "prenorm": False,
            "activation_function": "swiglu",
        },
    ),
    "modernbert of newer transformers": (
        "modern_bert",
        {
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
            "norm_eps": 1e-5,
            "local_attention": 16,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        },
    ),
}


def without_none(folder: Path, tiny: Tiny, **config: Any) -> Path:
    """A folder whose config.json lacks what is None."""
    assert tiny.config is not None
    tiny.config = {key: value for key, value in (tiny.config | config).items() if value is not None}
    return tiny.write_folder(folder)


def folder_of_parts(folder: Path, tiny: Tiny) -> Path:
    """The weights in two files."""
    tiny.write_folder(folder)
    with safetensors.read(folder / "model.safetensors") as file:
        tensors = {name: file.raw(name).view(np.float32).copy() for name in file.tensors}
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    write_shards(folder, [{name: tensors[name] for name in part} for part in (names[:9], names[9:])])
    return folder


@pytest.mark.parametrize("case", FORMS)
def test_the_same_in_other_words(case: str, tmp_path: Path) -> None:
    name, words = FORMS[case]
    tiny = Tiny(name)
    with load_encoder(tiny.write_folder(tmp_path / "usual"), backend="numpy") as model:
        wanted = model.embed(TEXTS)
    with load_encoder(folder_of_parts(tmp_path / "parts", tiny), backend="numpy") as model:
        np.testing.assert_array_equal(model.embed(TEXTS), wanted)
    assert tiny.config is not None
    tiny.config = {"model_type": tiny.config["model_type"]} | words
    with load_encoder(tiny.write_folder(tmp_path / "other"), backend="numpy") as model:
        assert model.context == 64
        np.testing.assert_array_equal(model.embed(TEXTS), wanted)


def test_a_list_of_layers_in_gguf(tmp_path: Path) -> None:
    tiny = Tiny("modern_bert")
    with load_encoder(tiny.write_gguf(tmp_path / "m.gguf"), backend="numpy") as model:
        wanted = model.embed(TEXTS)
    for said, same in (([False, True, True, False], True), ([False, True, False, False], False), (2, False)):
        tiny.write_gguf(tmp_path / "m.gguf", attention__sliding_window_pattern=said)
        with load_encoder(tmp_path / "m.gguf", backend="numpy") as model:
            assert np.array_equal(model.embed(TEXTS), wanted) == same


SAID: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "norms before": ("nomic_bert", {"prenorm": True}, UnsupportedModel, "prenorm is True; only False is supported"),
    "neighbours turned": ("nomic_bert", {"rotary_emb_interleaved": True}, UnsupportedModel, "interleaved is True"),
    "half of a head turned": ("nomic_bert", {"rotary_emb_fraction": 0.5}, UnsupportedModel, "fraction is 0.5"),
    "another gate": ("nomic_bert", {"hidden_act": "gelu"}, UnsupportedModel, "hidden_act is 'gelu'"),
    "stretched angles": (
        "nomic_bert",
        {"rope_parameters": {"rope_theta": 1000.0, "rope_type": "yarn"}},
        UnsupportedModel,
        "rope_parameters.rope_type is 'yarn', which is not supported",
    ),
    "stretched angles of a window": (
        "modern_bert",
        {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}},
        UnsupportedModel,
        "rope_parameters.sliding_attention.rope_type is 'yarn'",
    ),
    "too few layers": ("modern_bert", {"layer_types": ["full_attention"]}, FileError, "for each of the 4 layers"),
    "another attention": ("modern_bert", {"layer_types": ["chunked"] * 4}, FileError, "a kind for each"),
    "no kind at all": ("modern_bert", {"layer_types": [[]] * 4}, FileError, "a kind for each"),
    "no window": ("modern_bert", {"local_attention": None}, FileError, "the key local_attention is missing"),
    "another unit": ("modern_bert", {"hidden_activation": "relu"}, UnsupportedModel, "hidden_activation is 'relu'"),
    "another feed-forward": ("jina_bert_v2", {"feed_forward_type": "reglu"}, UnsupportedModel, "type is 'reglu'"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_not_understood_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, config, kind, match = SAID[case]
    with pytest.raises(kind, match=match):
        load_encoder(without_none(tmp_path, Tiny(name), **config), backend="numpy")


def test_a_gate_whose_place_is_not_known(tmp_path: Path) -> None:
    tiny = Tiny("jina_bert_v2.code")
    tiny.apart = False
    with pytest.raises(UnsupportedModel, match="holds the gate and what it gates in an order that depends on who"):
        load_encoder(tiny.write_gguf(tmp_path / "m.gguf"), backend="numpy")


def test_a_norm_where_none_belongs(tmp_path: Path) -> None:
    tiny = Tiny("modern_bert")
    tensors = tiny.weights() | {"blk.0.attn_norm.weight": np.ones(64, np.float32)}
    with pytest.raises(UnsupportedModel, match=r"the tensor blk\.0\.attn_norm\.weight means nothing"):
        load_encoder(tiny.write_gguf(tmp_path / "m.gguf", "F32", tensors), backend="numpy")
    missing = {name: value for name, value in tiny.weights().items() if name != "blk.2.attn_norm.weight"}
    with pytest.raises(FileError, match=r"blk\.2\.attn_norm\.weight is missing"):
        load_encoder(tiny.write_gguf(tmp_path / "m.gguf", "F32", missing), backend="numpy")
