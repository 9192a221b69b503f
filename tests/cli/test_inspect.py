import json

import pytest

from soberano.cli._facts import opened
from soberano.cli.inspect import as_json, as_text
from soberano.formats import gguf, gguf_write
from tests.tiny import write_tiny_llama
from tests.tiny_encoders import RANKERS, Tiny


def test_the_facts_are_those_of_the_file(soberano, tiny):
    with gguf.read(tiny) as raw, opened(tiny) as file:
        facts = as_json(file)
        assert facts["weights"] == sum(raw.raw(n).nbytes for n in raw.tensors) // 4  # all F32
        assert facts["bytes"] == 4 * facts["weights"] == sum(t["bytes"] for t in facts["types"])
        assert facts["bits_per_weight"] == 32 and facts["architecture"] == "llama" and facts["layers"] == 2
        assert len(facts["tensors"]) == len(file.tensors)
        assert facts["metadata"]["tokenizer.ggml.tokens"]["length"] == facts["vocabulary"]
    assert json.loads(soberano("inspect", tiny, "--json").out) == facts


def test_a_person_sees_each_kind_of_tensor_once(soberano, tiny):
    out = soberano("inspect", tiny).out
    assert out.count("attn_q") == 1 and "blk.*.attn_q.weight" in out
    assert "has a template" in out and len(out.splitlines()) < 40
    every = soberano("inspect", tiny, "--tensors", "--metadata").out
    assert every.count("attn_q") == 2 and "blk.1.attn_q.weight" in every and "general.architecture" in every
    assert max(map(len, every.splitlines())) < 250


def test_mixed_layers_say_how_many_of_each(tmp_path):
    path = tmp_path / "mixed.gguf"
    write_tiny_llama(path, types=lambda name: "Q8_0" if name == "blk.1.attn_q.weight" else "F32")
    with opened(path) as file:
        assert "1 F32, 1 Q8_0" in as_text(file)


def test_a_file_cannot_drive_the_terminal(soberano, tmp_path, tiny):
    evil = tmp_path / "evil.gguf"
    data = tiny.read_bytes()
    assert b"llama" in data
    with gguf.read(tiny) as file:
        name = file.metadata["general.name"]
    evil.write_bytes(data.replace(name.encode(), ("\x1b]0;" + "x" * len(name))[: len(name)].encode()))
    answer = soberano("inspect", evil)
    assert answer.status == 0 and "\x1b" not in answer.out and "\ufffd" in answer.out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"GGUF\x03\x00\x00\x00"])
def test_what_is_no_model_is_refused_in_one_line(soberano, tmp_path, content):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    answer = soberano("inspect", path)
    assert answer.status == 2 and answer.err.startswith("soberano: ") and answer.err.count("\n") == 1


def test_what_a_file_does_not_say_is_not_called_none(tmp_path):
    path = tmp_path / "bare.gguf"
    gguf_write.write(path, {"general.architecture": "llama"}, {})
    with opened(path) as file:
        assert "None" not in as_text(file) and "not stated" in as_text(file)


def test_a_folder(soberano, tmp_path):
    folder = Tiny("modern_bert").write_folder(tmp_path / "tiny-modern")
    answer = soberano("inspect", folder)
    assert answer.status == 0 and f"{folder}, a Hugging Face folder" in answer.out
    assert "layers.*.attn.Wqkv.weight" in answer.out and "None" not in answer.out and "chat" not in answer.out
    facts = json.loads(soberano("inspect", folder / "model.safetensors", "--json").out)
    wanted = {"name": "tiny-modern", "architecture": "modernbert", "layers": 4, "width": 64, "tokenizer": "WordPiece"}
    assert wanted.items() <= facts.items() and facts["metadata"]["local_attention"] == 16
    assert facts["weights"] == sum(value.size for value in Tiny("modern_bert").weights().values())


def test_what_a_model_is_for(soberano, tmp_path, tiny):
    paths = {
        "generating text": tiny,
        "embedding texts": Tiny("bert").write_gguf(tmp_path / "m.gguf"),
        "ranking documents": Tiny("bert", RANKERS).write_folder(tmp_path / "ranks"),
        None: Tiny("bert").write_folder(tmp_path / "new", model_type="bert-of-tomorrow"),
    }
    for purpose, path in paths.items():
        assert json.loads(soberano("inspect", path, "--json").out)["purpose"] == purpose
