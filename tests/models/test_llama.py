"""The conformance list of a decoder, on a tiny random model: every backend, every path, one answer."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.backends import native
from soberano.backends.plan import Plan
from soberano.backends.tree import map_arrays
from soberano.bench.score import distance, logits
from soberano.core.errors import CapacityError, ContextError, FileError, InputError, SoberanoError, UnsupportedModel
from soberano.formats import gguf
from soberano.models.cache import Room
from soberano.models.generate import Generation
from soberano.models.model import Model
from soberano.models.options import Options
from soberano.models.step import Programs, compiled
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.encode import encode
from soberano.registry.pull import pull
from tests.tiny import write_tiny_llama

MIXED = {"attn": "Q4_K", "ffn": "Q6_K", "embd": "Q5_0"}
BACKENDS = ["numpy", "xla", "cpu"]
PROMPT = list(range(3, 80))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_llama(path, layers=3)
    return path


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, tiny: Path) -> Iterator[Model]:
    with soberano.load(tiny, backend=request.param, sequences=3) as found:
        yield found


def all_logits(model: Model, tokens: list[int], single: bool = False) -> np.ndarray:
    return np.concatenate(list(logits(model, tokens, single=single)))


def text(model: Model, prompt: list[int], **options: object) -> list[int]:
    options = {"max_tokens": 12, "ignore_eos": True} | options
    return [t for piece in model.start(prompt, Options(**options)) for t in piece.tokens]  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize(
    "types",
    [{}, MIXED, {"attn": "F16", "ffn": "Q8_0", "embd": "BF16"}, {"attn": "Q5_1", "ffn": "Q4_0", "embd": "F32"}],
    ids=["Q4_1", "k-quants", "plain", "legacy"],
)
def test_backends_agree(backend: str, types: dict[str, str], tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "m.gguf", types=types, width=256, ffn=512, tied=False)
    with soberano.load(tmp_path / "m.gguf", backend="numpy") as reference:
        expected = all_logits(reference, PROMPT)
    with soberano.load(tmp_path / "m.gguf", backend=backend) as model:
        found = distance([expected], [all_logits(model, PROMPT, single=True)])
        prompt = distance([expected], [all_logits(model, PROMPT)])
        limit = 1e-3 if model.plan.isa == "amx" else 1e-5  # the matrix unit is bfloat16
    assert found.kl_mean < 1e-5 and found.agreement > 0.97, found
    assert prompt.kl_mean < limit, prompt


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_formats_may_differ_from_layer_to_layer(backend: str, tmp_path: Path) -> None:
    def kind(name: str) -> str:
        if "norm" in name:
            return "F32"
        return ("Q4_K", "Q6_K", "Q8_0", "F16")[sum(map(ord, name)) % 4]

    write_tiny_llama(tmp_path / "m.gguf", types=kind, width=256, ffn=512, layers=5)
    with soberano.load(tmp_path / "m.gguf", backend="numpy") as reference:
        expected = all_logits(reference, PROMPT)
    with soberano.load(tmp_path / "m.gguf", backend=backend) as model:
        mixed = any(len(stack.members) > 1 for stack in model.weights.blk)
        assert mixed == (model.plan.weights != "dense")
        assert distance([expected], [all_logits(model, PROMPT, single=True)]).kl_mean < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_may_differ_in_format(backend: str, tmp_path: Path) -> None:
    texts = []
    for other in ("F32", "F16"):
        write_tiny_llama(
            tmp_path / "m.gguf", layers=2, types=lambda name, other=other: other if name[:5] == "blk.1" else "F32"
        )
        with soberano.load(tmp_path / "m.gguf", backend=backend) as model:
            texts.append(all_logits(model, PROMPT))
    np.testing.assert_allclose(texts[1], texts[0], atol=0.1)  # the weights of one layer were rounded to 11 bits


@pytest.mark.parametrize("head", [8, 40])
def test_heads_that_the_attention_kernel_does_not_serve(head: int, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "m.gguf", width=4 * head, heads=4, ffn=64, types=lambda name: "F32", context=2048)
    with soberano.load(tmp_path / "m.gguf", backend="numpy") as reference:
        expected = all_logits(reference, PROMPT)
    with soberano.load(tmp_path / "m.gguf", backend="cpu") as model:
        assert not model.programs.paged and model.cache_dtype == np.float32
        assert model.programs.table_width(40, model.context) == 8, "the meaning gathers the whole table"
        assert distance([expected], [all_logits(model, PROMPT, single=True)]).kl_mean < 1e-6


def test_decode_equals_prefill(model: Model) -> None:
    together, single = all_logits(model, PROMPT), all_logits(model, PROMPT, single=True)
    if model.plan.isa == "amx":  # other arithmetic for prompts: see soberano.backends.plan.Role
        assert distance([single], [together]).kl_mean < 1e-3
    elif model.plan.native:
        np.testing.assert_array_equal(single, together)
    else:  # float32 sums in another order
        np.testing.assert_allclose(single, together, rtol=0, atol=2e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cache", ["f16", "bf16", "q8_0"])
def test_every_backend_keeps_every_cache(backend: str, cache: str, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "m.gguf", width=128, types=lambda name: "F32")  # heads of 32
    with soberano.load(tmp_path / "m.gguf", backend="numpy") as reference:
        expected = all_logits(reference, PROMPT)
    with soberano.load(tmp_path / "m.gguf", backend=backend, cache=cache) as model:
        found = distance([expected], [all_logits(model, PROMPT, single=True)])
    limit = {"f16": 1e-5, "bf16": 1e-3, "q8_0": 1e-3}[cache]  # 11, 8 and 8 bits of a number
    assert found.kl_mean < limit and found.agreement > 0.97, found


def test_a_sequence_does_not_notice_others(model: Model) -> None:
    running = [model.start(PROMPT[i:], Options(max_tokens=12, ignore_eos=True, temperature=0)) for i in range(3)]
    seen: list[list[int]] = [[], [], []]
    while not all(g.done for g in running):
        for tokens, generation in zip(seen, running, strict=True):
            tokens.extend(t for piece in generation.step() for t in piece.tokens)
    for generation in running:
        generation.close()
    expected = [text(model, PROMPT[i:], temperature=0) for i in range(3)]
    assert seen == expected


def test_a_seed_decides(model: Model) -> None:
    first, again, other = (text(model, PROMPT, seed=s, temperature=1.5, top_k=0, top_p=1, min_p=0) for s in (7, 7, 8))
    assert first == again and first != other


def test_every_backend_draws_the_same_tokens(tiny: Path) -> None:
    drawn = []
    for backend in BACKENDS:
        with soberano.load(tiny, backend=backend) as model:
            drawn.append(text(model, PROMPT, seed=5, temperature=1.0, repeat_penalty=1.2, presence_penalty=0.3))
    assert drawn[0] == drawn[1] == drawn[2]


def test_pages_come_back(model: Model) -> None:
    free = model.pages.free
    generation = model.start(PROMPT, Options(max_tokens=4))
    assert model.pages.free < free
    generation.step()
    generation.close()
    generation.close()
    assert model.pages.free == free and generation.done


def test_a_full_cache_says_so_and_takes_nothing(model: Model) -> None:
    free = model.pages.free
    held = [model.start(PROMPT) for _ in range(3)]
    with pytest.raises(CapacityError, match="cache pages of 32, but 0 of 24 are free"):
        model.start(PROMPT)
    for generation in held:
        generation.close()
    assert model.pages.free == free


def test_length_and_context_end_it(model: Model) -> None:
    generation = model.start(PROMPT, Options(max_tokens=3, ignore_eos=True))
    pieces = list(generation)
    assert generation.finish_reason == "length" and generation.completion_tokens == 3
    assert [t for p in pieces for t in p.tokens] and generation.prompt_tokens == len(PROMPT)
    whole = model.start(PROMPT[:10] * 24, Options(ignore_eos=True))
    list(whole)
    assert whole.completion_tokens == model.context - 240 and whole.finish_reason == "length"


def test_no_token_is_asked_for(model: Model) -> None:
    generation = model.start(PROMPT, Options(max_tokens=0))
    assert generation.done and generation.step() == [] and generation.finish_reason == "length"
    generation.close()


def test_a_prompt_that_does_not_fit(model: Model) -> None:
    with pytest.raises(ContextError, match="the prompt is 256 tokens, but the context holds 256"):
        model.start([5] * 256)
    with pytest.raises(InputError, match="the prompt holds token 384"):
        model.start([384])
    with pytest.raises(InputError, match="the prompt is empty"):
        model.start([])
    with pytest.raises(InputError, match="logit_bias holds token 9999"):
        model.start([5], Options(logit_bias=((9999, 1.0),)))


def test_a_bias_bans_and_forces(model: Model) -> None:
    forced = text(model, PROMPT, logit_bias=((77, 100.0),), temperature=0)
    assert set(forced) == {77}
    banned = text(model, PROMPT, temperature=0)[0]
    assert banned not in text(model, PROMPT, logit_bias=((banned, -100.0),), temperature=0)


def test_logprobs_are_those_of_the_model(model: Model) -> None:
    pieces = list(model.start(PROMPT, Options(max_tokens=3, temperature=0, logprobs=5, ignore_eos=True)))
    found = [logprob for piece in pieces for logprob in piece.logprobs]
    row = all_logits(model, PROMPT)[-1].astype(np.float64)
    expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
    assert found[0].token == int(row.argmax()) == found[0].top[0][0]
    assert found[0].logprob == pytest.approx(expected[found[0].token], abs=1e-4)
    assert [p for _, _, p in found[0].top] == pytest.approx(np.sort(expected)[::-1][:5].tolist(), abs=1e-4)


def test_a_stop_string_ends_it_before_it_shows(model: Model) -> None:
    whole = "".join(p.text for p in model.start(PROMPT, Options(max_tokens=40, temperature=0, ignore_eos=True)))
    stop = whole[5:8]
    generation = model.start(PROMPT, Options(max_tokens=40, temperature=0, ignore_eos=True, stop=(stop,)))
    assert "".join(p.text for p in generation) == whole[: whole.index(stop)]
    assert generation.finish_reason == "stop"


def test_traffic_compiles_nothing_after_the_first_of_each_shape(model: Model) -> None:
    def traffic() -> None:
        for length in (3, 17, 40, 70, 90):
            for temperature in (0.0, 0.7):
                text(model, (PROMPT * 2)[:length], temperature=temperature)

    traffic()
    before = compiled.total() if model.plan.home == "jax" else 0
    traffic()
    assert (compiled.total() if model.plan.home == "jax" else 0) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_that_are_not_finite_end_a_generation(backend: str, tiny: Path, tmp_path: Path) -> None:
    """With an error that says what to do, whatever was asked for; and the next one is told the same."""
    with gguf.read(tiny) as file:
        tensors = {n: (t.format, np.array(file.raw(n))) for n, t in file.tensors.items()}
        metadata = {k: gguf.Typed(file.kinds[k], v) for k, v in file.metadata.items()}
    tensors["blk.0.ffn_gate.weight"][1][5, :2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)  # a scale
    gguf.write(tmp_path / "nan.gguf", metadata, tensors)
    with soberano.load(tmp_path / "nan.gguf", backend=backend) as model:
        for options in ({"temperature": 0}, {}, {"logprobs": 3}, {"repeat_penalty": 1.1, "top_k": 0}):
            generation = model.start(PROMPT, Options(**options))
            with pytest.raises(
                SoberanoError, match=r"nan\.gguf computed logits that are not finite.*soberano verify /"
            ):
                list(generation)
            assert generation.done and generation.completion_tokens == 0


F32, F16 = format_named("F32"), format_named("F16")


def freqs(*numbers: float, kind: type[BlockFormat] = F32) -> dict[str, object]:
    return {"rope_freqs.weight": (kind, encode(kind, np.array(numbers, np.float32)))}


def test_half_a_model_is_refused_by_name(tiny: Path, tmp_path: Path) -> None:
    def rewrite(change: object) -> Path:
        with gguf.read(tiny) as file:
            tensors = {n: (t.format, np.array(file.raw(n))) for n, t in file.tensors.items()}
            metadata = {k: gguf.Typed(file.kinds[k], v) for k, v in file.metadata.items()}
            change(metadata, tensors)  # type: ignore[operator]
            gguf.write(tmp_path / "changed.gguf", metadata, tensors)
        return tmp_path / "changed.gguf"

    def scaled(factor: float) -> dict[str, object]:
        return {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": factor}

    nan, inf = float("nan"), float("inf")
    cases = [
        (lambda m, t: t.update({"blk.0.attn_gate.weight": t["blk.0.attn_q.weight"]}), UnsupportedModel, "attn_gate"),
        (lambda m, t: t.pop("blk.1.ffn_up.weight"), FileError, r"blk.1.ffn_up.weight is missing"),
        (lambda m, t: m.pop("llama.block_count"), FileError, "llama.block_count"),
        (lambda m, t: m.update({"general.architecture": "nonesuch"}), UnsupportedModel, "'nonesuch'"),
        (lambda m, t: m.update({"llama.embedding_length": 128}), FileError, r"but the metadata says"),
        (lambda m, t: m.update({"llama.rope.scaling.type": "su"}), UnsupportedModel, "'su'"),
        (lambda m, t: m.update({"general.architecture": "model"}), UnsupportedModel, "known: .*llama"),
        (
            lambda m, t: m.update({"split.count": 3}),
            UnsupportedModel,
            r"one part of a split model \(split.count is 3\)",
        ),
        (lambda m, t: m.update(scaled(0.0)), FileError, "rope.scaling.factor is 0.0; it must be a number above 0"),
        (lambda m, t: m.update(scaled(nan)), FileError, "rope.scaling.factor is nan"),
        (lambda m, t: m.update({"llama.rope.freq_base": 0.0}), FileError, "rope.freq_base is 0.0"),
        (lambda m, t: m.update({"llama.rope.dimension_count": 2**31 - 2}), FileError, "even, and at most 16"),
        (lambda m, t: m.update({"llama.rope.dimension_count": 7}), FileError, "even, and at most 16"),
        (lambda m, t: m.update({"llama.attention.head_count_kv": 3}), FileError, "divisor of the 4 query heads"),
        (lambda m, t: m.update({"llama.attention.key_length": 2**30}), FileError, "but the metadata says"),
        (
            lambda m, t: m.update({"llama.block_count": 2**31 - 1}),
            FileError,
            "block_count is 2147483647; .* at most 29",
        ),
        (lambda m, t: m.update({"llama.feed_forward_length": [64] * 999 + [65]}), UnsupportedModel, "differs from"),
        (lambda m, t: t.update({"token_embd.weight": t["output_norm.weight"]}), FileError, "no matrix token_embd"),
        (lambda m, t: t.update(freqs(1, 2, 3)), FileError, r"F32 \(3,\), and must be F32 \(8,\)"),
        (lambda m, t: t.update(freqs(*[1] * 8, kind=F16)), FileError, r"F16 \(8,\), and must be F32"),
        (lambda m, t: t.update(freqs(*[1] * 7, 0)), FileError, "holds 0.0, and must hold finite numbers above 0"),
        (lambda m, t: t.update(freqs(*[1] * 7, inf)), FileError, "holds inf"),
        (lambda m, t: t.update(freqs(*[1] * 7, nan)), FileError, "holds nan"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            soberano.load(rewrite(change), backend="numpy")
    for fine in (freqs(*[1] * 8), {}):  # the refusals above are for what they name, not for the rewriting
        soberano.load(rewrite(lambda m, t, fine=fine: t.update(fine)), backend="numpy").close()


@pytest.mark.parametrize("compiles,length", [(False, 10), (True, 16)])
def test_a_home_that_compiles_gets_padded_chunks(compiles: bool, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs("llama", SimpleNamespace(head=16), Plan("numpy", "numpy"), 100)
    monkeypatch.setattr(type(programs.home), "compiles", compiles)
    assert programs.chunk(10) == (10, length)


@pytest.mark.skipif(not native.state()[0], reason=native.state()[1])
def test_the_plan_says_what_runs(tiny: Path) -> None:
    with soberano.load(tiny, backend="cpu") as model:
        assert model.plan.native and model.plan.weights == "tiles" and model.plan.isa == native.isa()
    with soberano.load(tiny, backend="xla") as model:
        assert not model.plan.native and model.plan.weights == "dense"


def test_a_step_that_fails_leaves_a_model_that_works(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = text(model, PROMPT, temperature=0)
    generation = model.start(PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(model.programs, "_forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generation.step()
    generation.close()
    assert text(model, PROMPT, temperature=0) == expected


def break_a_step_beside_another(
    model: Model, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., object]
) -> tuple[list[int], Generation]:
    """The first tokens of a generation, and itself, after a step of another one has failed as `fail` does."""
    options = Options(max_tokens=8, temperature=0, ignore_eos=True)
    first, second = model.start(PROMPT, options), model.start(PROMPT[1:], options)
    seen = [t for _ in range(5) for piece in second.step() for t in piece.tokens]
    with monkeypatch.context() as patch:
        patch.setattr(model.programs, "_forward", fail)
        with pytest.raises(ZeroDivisionError):
            first.step()
    assert first.done and not second.done
    first.close()
    return seen, second


def test_a_step_that_fails_ends_no_other_answer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, free = text(model, PROMPT[1:], max_tokens=8, temperature=0), model.pages.free
    seen, second = break_a_step_beside_another(model, monkeypatch, lambda *_: 1 / 0)
    seen += [t for piece in second for t in piece.tokens]
    assert seen == expected and model.pages.free == free


def test_others_hear_that_the_cache_was_lost(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    if model.plan.home != "jax":
        pytest.skip("only programs that are compiled consume a cache")

    def consume(key: object, weights: object, k: Any, v: Any, chunk: object) -> None:
        k.delete()
        raise ZeroDivisionError

    expected, free = text(model, PROMPT[1:], max_tokens=8, temperature=0), model.pages.free
    seen, second = break_a_step_beside_another(model, monkeypatch, consume)
    assert seen == expected[: len(seen)]
    with pytest.raises(CapacityError, match="the cache was lost when another request's step failed; start again"):
        second.step()
    assert second.done and second.step() == []
    second.close()
    assert model.pages.free == free
    assert text(model, PROMPT[1:], max_tokens=8, temperature=0) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_the_embedding_that_are_no_tokens_are_never_drawn(backend: str, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "m.gguf", vocab=2048, tokens=384)
    with soberano.load(tmp_path / "m.gguf", backend=backend) as model:
        assert (model.config.vocabulary, model.tokenizer.size) == (2048, 384)
        hot = {"temperature": 100.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # four of five would be no token
        for more in ({}, {"presence_penalty": 0.5}, {"logit_bias": ((383, 1.0),)}, {"logprobs": 20}):
            assert max(text(model, PROMPT, seed=1, **hot, **more)) < 384  # type: ignore[arg-type]
        scored = list(model.start(PROMPT, Options(max_tokens=20, temperature=0, ignore_eos=True, logprobs=20)))
        assert max(token for piece in scored for each in piece.logprobs for token, _, _ in each.top) < 384
        for wrong in ({"prompt": [384]}, {"prompt": [3], "options": Options(logit_bias=((384, 1.0),))}):
            with pytest.raises(InputError, match="token 384, but ids go from 0 to 383"):
                model.start(**wrong)  # type: ignore[arg-type]


def test_more_tokens_than_the_embedding_has_are_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "m.gguf", vocab=384, tokens=385)
    with pytest.raises(FileError, match=r"the tokenizer has 385 tokens .*, but the embedding .* has only 384"):
        soberano.load(tmp_path / "m.gguf", backend="numpy")


def test_a_start_that_fails_takes_no_pages(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    free = model.pages.free
    with monkeypatch.context() as patch:
        patch.setattr(model.tokenizer, "stream", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.start(PROMPT)
        patch.undo()
        patch.setattr("soberano.models.generate.seed_words", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.start(PROMPT)
    assert model.pages.free == free


def test_a_cache_that_memory_cannot_hold(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_llama(tmp_path / "m.gguf", context=2**31 - 1)
    soberano.load(tmp_path / "m.gguf", backend="numpy").close()
    with pytest.raises(CapacityError, match=r"context of 2147483647 tokens takes 1.10 TB, and .* of memory are free"):
        soberano.load(tmp_path / "m.gguf", backend="numpy", context=2**31 - 1)
    with pytest.raises(CapacityError, match="context of 256 tokens, 100000000 times takes"):
        soberano.load(tiny, backend="xla", sequences=10**8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["dense", "blocks"])
def test_the_bytes_of_weights_are_known_beforehand(
    backend: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"token_embd.weight": "Q6_K", "blk.0.attn_v.weight": "F16", "blk.1.ffn_down.weight": "Q8_0"}
    write_tiny_llama(
        tmp_path / "m.gguf", types=lambda n: "F32" if "norm" in n else kinds.get(n, "Q4_K"), width=256, vocab=500
    )
    monkeypatch.setattr("soberano.backends.choose._unpacked", lambda weights: form)
    told: list[int] = []
    monkeypatch.setattr(Room, "check", lambda room, weights, free: told.append(weights))
    with soberano.load(tmp_path / "m.gguf", backend=backend) as model:
        made: list[int] = []
        map_arrays(lambda array: made.append(array.nbytes), model.weights)
    bookkeeping = 9 * 2 * 2 * 4  # a tag and a slot, for each layer of each field
    assert sum(made) - bookkeeping == told[0]


def test_weights_and_cache_that_memory_cannot_hold_together(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    check = Room.check
    monkeypatch.setattr(Room, "check", lambda room, *sizes: told.append((sizes[0], room.nbytes)) or check(room, *sizes))
    soberano.load(tiny, backend="numpy").close()
    weights, cache = told[0]
    monkeypatch.setattr("soberano.models.model.free_memory", lambda: weights + cache)
    soberano.load(tiny, backend="numpy").close()
    monkeypatch.setattr("soberano.models.model.free_memory", lambda: weights + cache - 1)
    monkeypatch.setattr("soberano.models.model.load_weights", lambda *_: 1 / 0)  # not reached
    with pytest.raises(CapacityError, match=r"the weights take .* and a cache .* takes .*, and .* of memory are free"):
        soberano.load(tiny, backend="numpy")


def test_the_memory_is_told_before_it_is_taken(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("soberano.models.model.load_weights", lambda *_: 1 / 0)
    caplog.set_level("INFO", "soberano.models")
    with pytest.raises(ZeroDivisionError):
        soberano.load(tiny, backend="numpy", sequences=2)
    (line,) = caplog.messages
    assert re.fullmatch(
        r"memory: weights 542 kB, cache 393 kB \(256 tokens of 2 conversations\), together 936 kB of the "
        r"[\d.]+ GB that are free",
        line,
    ), line


def test_a_prompt_too_long_hears_of_a_larger_context(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_tiny_llama(path, types={"attn": "F32", "ffn": "F32", "embd": "F32"})
    with (
        soberano.load(path, backend="numpy", context=32) as small,
        pytest.raises(ContextError, match=rf"--context, up to {small.config.context}\)"),
    ):
        small.start([5] * 32)
    with soberano.load(path, backend="numpy", context=None) as whole, pytest.raises(ContextError) as refusal:
        whole.start([5] * whole.context)
    assert whole.context == whole.config.context and "--context" not in str(refusal.value)


def test_a_stored_name_loads(cache: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    write_tiny_llama(path, types={"attn": "F32", "ffn": "F32", "embd": "F32"})
    pull(str(path), name="kept")
    with soberano.load("kept", backend="numpy") as model:
        assert model.path != path and model.path.name == "mine.gguf"
    with pytest.raises(FileError, match="run: soberano pull smollm2"):
        soberano.load("smollm2")
