"""What BERT has beside the list of test_encoder_conformance.py: its folders, and what one may ask of an encoder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.backends.tree import map_arrays
from soberano.core.errors import CapacityError, FileError, InputError, UnsupportedModel
from soberano.models.encoder import Encoder, compiled
from soberano.models.load import load_decoder, load_encoder
from tests.formats.safetensors_files import write_shards
from tests.minilm import minilm_folder
from tests.text.vocabularies import wordpieces
from tests.tiny import write_tiny_llama
from tests.tiny_bert import CONTEXT, WIDTH, gguf_name, weights, write_folder, write_gguf

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bert_tiny.npz")
TEXTS = [str(text) for text in GOLDEN["texts"]]
BACKENDS = ["numpy", "xla", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="module", params=[*BACKENDS, "cpu exact"])
def model(request: pytest.FixtureRequest, folder: Path) -> Iterator[Encoder]:
    backend, _, exact = request.param.partition(" ")
    with load_encoder(folder, backend=backend, exact=bool(exact)) as found:
        yield found


def limit(model: Encoder) -> float:
    """How far a number of a vector of length 1 may be off: kernels have float16 keys, the matrix unit bfloat16."""
    if not model.plan.native:
        return 2e-6
    return 5e-3 if model.plan.isa == "amx" and model.plan.role == "prompt" else 1e-4


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_sentence_transformers(pooling: str, normalize: bool, tmp_path: Path) -> None:
    write_folder(tmp_path, pooling=pooling, normalize=normalize)
    for backend in BACKENDS:
        with load_encoder(tmp_path, backend=backend, exact=True) as model:
            size = 1 if normalize else np.linalg.norm(GOLDEN[f"{pooling}_{normalize}"], axis=1).max()
            np.testing.assert_allclose(
                model.embed(TEXTS), GOLDEN[f"{pooling}_{normalize}"], rtol=0, atol=size * limit(model), err_msg=backend
            )


def test_backends_agree(model: Encoder) -> None:
    found = model.embed(TEXTS)
    assert found.shape == (len(TEXTS), WIDTH) and found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN["mean_tokens_True"], rtol=0, atol=limit(model))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=0, atol=1e-6)


def test_one_text_and_none(model: Encoder) -> None:
    one = model.embed("the quick brown fox")
    assert one.shape == (WIDTH,)
    np.testing.assert_allclose(model.embed(["the quick brown fox"])[0], one, rtol=0, atol=2e-6)
    assert model.embed([]).shape == (0, WIDTH)


def test_parts_of_vectors_and_other_poolings(model: Encoder) -> None:
    whole = model.embed(TEXTS, normalize=False)
    part = model.embed(TEXTS, dimensions=16)
    np.testing.assert_allclose(part, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1)[:, None], rtol=0, atol=1e-5)
    for text in TEXTS:
        rows = model.token_vectors(text)
        assert rows.shape == (len(model.tokens(text)), WIDTH)
        for pooling, wanted in (("mean", rows.mean(0)), ("cls", rows[0]), ("last", rows[-1])):
            found = model.embed(text, pooling=pooling, normalize=False)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=pooling)


def test_traffic_compiles_few_programs(folder: Path) -> None:
    with load_encoder(folder, backend="xla") as model:
        compiled.clear()
        for texts in (1, 2, 3, 5, 30, 31, 32, 33, 100):
            model.embed(["a " * (i % 60) for i in range(texts)])
        seen = dict(compiled)
        assert len(seen) < 40 and set(seen.values()) == {1}
        model.embed(["b " * (i % 60) for i in range(100)])
        assert dict(compiled) == seen


def test_a_folder_of_parts_and_of_old_names(tmp_path: Path) -> None:
    tensors = weights()
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    write_shards(tmp_path, [{name: tensors[name] for name in part} for part in (names[:20], names[20:])])
    with load_encoder(tmp_path, backend="numpy") as model:
        np.testing.assert_allclose(model.embed(TEXTS), GOLDEN["mean_tokens_True"], rtol=0, atol=2e-6)
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    write_folder(tmp_path / "old", old | {"cls.predictions.bias": np.zeros(3, np.float32)})
    (tmp_path / "old" / "tokenizer.json").unlink()
    (tmp_path / "old" / "vocab.txt").write_text("".join(f"{token}\n" for token in wordpieces()))
    with load_encoder(tmp_path / "old" / "model.safetensors", backend="numpy") as model:
        np.testing.assert_allclose(model.embed(TEXTS), GOLDEN["mean_tokens_True"], rtol=0, atol=2e-6)


def test_what_the_files_say_of_a_text(tmp_path: Path) -> None:
    write_folder(tmp_path, longest=16)
    (tmp_path / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"passage": "the "}, "default_prompt_name": "passage"})
    )
    with load_encoder(tmp_path, backend="numpy") as model:
        assert model.context == 16 and model.tokens("fox")[1:-1] == model.tokenizer.encode("the fox", add_bos=False)
    with load_encoder(tmp_path, backend="numpy", context=8) as model:
        assert len(model.tokens("the " * 99)) == 8
    with pytest.raises(InputError, match="context is 17, but the model reads 2 to 16 tokens"):
        load_encoder(tmp_path, context=17)
    (tmp_path / "modules.json").unlink()
    with load_encoder(tmp_path, backend="numpy") as model:
        assert (model.context, model.sentence.pooling, model.sentence.normalize) == (CONTEXT, "mean", True)


ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "pooling": ({"pooling": "max"}, "pooling is 'max', which makes no vector of a text; give mean, cls or last"),
    "no pooling": ({"pooling": "none"}, "pooling is 'none'"),
    "batch": ({"batch": 0}, "batch is 0; give a number of texts"),
    "dimensions": ({"dimensions": 65}, "dimensions is 65, but the vectors of this model have 64"),
    "no dimensions": ({"dimensions": 0}, "dimensions is 0"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_cannot_be_asked(case: str, model: Encoder) -> None:
    options, match = ASKED[case]
    with pytest.raises(InputError, match=match):
        model.embed(["a"], **options)


def test_texts_that_are_none(model: Encoder) -> None:
    with pytest.raises(InputError, match="a text is b'bytes', and must be a string"):
        model.embed([b"bytes"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="text 1 holds token -1"):
        model.start([[2, 3], [2, -1]])
    with pytest.raises(InputError, match="text 0 has 65 tokens; the model reads 1 to 64"):
        model.start([[2] * 65])
    with pytest.raises(InputError, match="text 0 has 0 tokens"):
        model.start([[]])


def test_an_encoder_is_no_decoder_and_the_other_way_round(folder: Path, tmp_path: Path) -> None:
    with soberano.load(folder, backend="numpy") as found:
        assert isinstance(found, Encoder) and found.name == "tiny-bert"
    with pytest.raises(InputError, match="is an encoder: it turns texts into vectors"):
        load_decoder(folder)
    write_tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="generates text and is no encoder"):
        load_encoder(tmp_path / "m.gguf")


def test_what_memory_cannot_hold_is_refused_before_it_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, ...]] = []
    monkeypatch.setattr("soberano.models.encoder.check_memory", lambda *sizes: told.append(sizes))
    made: list[int] = []
    with load_encoder(folder, backend="numpy") as model:
        map_arrays(lambda array: made.append(array.nbytes), model.weights)
    bookkeeping = 16 * 2 * 3 * 4  # a tag and a slot, for each layer of each field
    assert [sizes[:-1] for sizes in told] == [(sum(made) - bookkeeping, CONTEXT, WIDTH, 128)]
    monkeypatch.undo()
    monkeypatch.setattr("soberano.models.encoder.free_memory", lambda: 10**6)
    monkeypatch.setattr("soberano.models.encoder.load_weights", lambda *_: 1 / 0)  # not reached
    with pytest.raises(
        CapacityError, match=r"the weights take .* and texts of up to 64 tokens .*, and 1.00 MB of memory"
    ):
        load_encoder(folder, backend="numpy")


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in weights().items() if key != name}


UP = "encoder.layer.0.intermediate.dense.weight"
BROKEN: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another architecture": ({"model_type": "roberta"}, UnsupportedModel, "the architecture is 'roberta'"),
    "no architecture": ({"model_type": None}, FileError, "does not say its model_type"),
    "one without a folder form": ({"model_type": "llama"}, UnsupportedModel, "'llama' is not read from a folder yet"),
    "another activation": ({"hidden_act": "relu"}, UnsupportedModel, "hidden_act is 'relu', which is not supported"),
    "relative positions": (
        {"position_embedding_type": "relative_key"},
        UnsupportedModel,
        "position_embedding_type is 'relative_key'",
    ),
    "no heads": ({"num_attention_heads": 0}, FileError, "num_attention_heads is 0; it must be a whole number above 0"),
    "heads that do not fit": (
        {"num_attention_heads": 3},
        FileError,
        r"num_attention_heads is 3.*divisor of the width 64",
    ),
    "no eps": ({"layer_norm_eps": "tiny"}, FileError, "layer_norm_eps is 'tiny'"),
    "a missing key": ({"hidden_size": None}, FileError, "the key hidden_size is missing"),
    "another width": ({"intermediate_size": 256}, FileError, "ffn_up.weight is \\(128, 64\\), but the metadata says"),
    "a million layers": ({"num_hidden_layers": 10**6}, FileError, "num_hidden_layers is 1000000"),
    "one layer too many": ({"num_hidden_layers": 4}, FileError, "blk.3.attn_q.weight is missing"),
    "one layer too few": (
        {"num_hidden_layers": 2},
        UnsupportedModel,
        "the tensor blk.2.attn_k.bias and 15 more means nothing",
    ),
    "a missing tensor": ({"tensors": without(UP)}, FileError, "blk.0.ffn_up.weight is missing"),
    "an unknown tensor": (
        {"tensors": weights() | {"adapter.down.weight": np.zeros((2, 2), np.float32)}},
        UnsupportedModel,
        "adapter.down.weight means nothing to the architecture 'bert'",
    ),
    "a tensor twice": (
        {"tensors": weights() | {f"bert.{UP}": np.zeros((128, 64), np.float32)}},
        FileError,
        "are the same",
    ),
    "integers": ({"tensors": weights() | {UP: np.zeros((128, 64), np.int32)}}, UnsupportedModel, "dense.weight is I32"),
    "another pooling": ({"pooling": "max_tokens"}, UnsupportedModel, "asks for max_tokens; known: cls_token, "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_understood_is_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, kind, match = BROKEN[case]
    write_folder(tmp_path, **changes)
    with pytest.raises(kind, match=match):
        load_encoder(tmp_path, backend="numpy")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", "[]", "holds a list, and must hold a dict"),
        ("modules.json", '[{"type": "sentence_transformers.models.Dense"}]', "chains Dense; known: Transformer"),
        ("modules.json", '[{"type": 7}]', "a module without a type"),
        ("modules.json", '[{"type": "x.Pooling", "path": "../.."}]', "must be in a folder here"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}',
            "cls_token and",
        ),
        ("sentence_bert_config.json", '{"max_seq_length": 1}', "max_seq_length is 1, not 2 or more"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "query"}', "lacks the prompt 'query'"),
        ("tokenizer.json", '{"model": {"type": "Trie"}}', "the model is 'Trie'; only WordPiece"),
        ("model.safetensors", "", "is an empty file"),
    ],
)
def test_malformed_files_of_a_folder(name: str, content: str, match: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises((FileError, UnsupportedModel), match=match):
        load_encoder(tmp_path, backend="numpy")


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    tensors = weights()
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:100]
    write_folder(tmp_path, tensors)
    with pytest.raises(InputError, match=r"the tokenizer has .* tokens and the model knows 100"):
        load_encoder(tmp_path, backend="numpy")


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"pooling_type": 5}, "pooling_type is 5; known are 0"),
        ({"attention.causal": True}, "attention.causal is True; only False is supported"),
        ({"attention.head_count": 5}, "bert.attention.head_count is 5"),
    ],
)
def test_gguf_keys_that_are_not_understood(keys: dict[str, Any], match: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", **keys)
    with pytest.raises((FileError, UnsupportedModel), match=match):
        load_encoder(tmp_path / "m.gguf", backend="numpy")


def test_the_test_names_tensors_as_gguf_does() -> None:
    gguf = pytest.importorskip("gguf")
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, 3)
    for name in weights():
        assert known.get_name(name, (".weight", ".bias")) == gguf_name(name)


@pytest.mark.model
def test_the_real_model() -> None:
    with load_encoder(minilm_folder(), exact=True) as model:
        assert (model.width, model.context, model.sentence.pooling) == (384, 256, "mean")
        cat, kitten, tax = model.embed(
            ["A cat sits on the mat.", "A kitten is sitting on a rug.", "Income tax is due in May."]
        )
    assert cat @ kitten > 0.5 > 0.2 > cat @ tax
