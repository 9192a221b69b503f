import io
import json
from dataclasses import fields

import pytest

from soberano.cli._sampling import FLAGS
from soberano.models.options import Options

FAST = ("--backend", "numpy", "--context", "64", "-n", "6", "--temperature", "0")


def test_every_option_has_a_flag():
    assert [*FLAGS, "adapter"] == [f.name for f in fields(Options)]


def test_the_text_streams_and_json_says_the_same(soberano, tiny):
    plain = soberano("run", tiny, "Once upon", *FAST, "--ignore-eos")
    assert (plain.status, plain.err) == (0, "")
    answer = json.loads(soberano("run", tiny, "Once upon", *FAST, "--ignore-eos", "--json", "--logprobs", "3").out)
    assert answer["text"] + "\n" == plain.out
    assert len(answer["tokens"]) == 6 and answer["finish_reason"] == "length" and answer["backend"] == "numpy"
    assert answer["prompt_tokens"] >= 1 and answer["timings"]["first_token_s"] > 0
    assert [len(t["top"]) for t in answer["logprobs"]] == [3] * 6
    assert [t["token"] for t in answer["logprobs"]] == [t["top"][0][0] for t in answer["logprobs"]] == answer["tokens"]


def test_a_prompt_may_come_from_a_pipe(soberano, tiny, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon"))
    assert soberano("run", tiny, "-", *FAST).out == soberano("run", tiny, "Once upon", *FAST).out


def test_chat_uses_the_template(soberano, tiny):
    raw, chat, system = (
        json.loads(soberano("run", tiny, "hi", *FAST, "--json", *more).out)["prompt_tokens"]
        for more in ((), ("--chat",), ("--chat", "--system", "be brief"))
    )
    assert raw < chat < system


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--top-p", "3"], "top_p is 3.0"),
        (["--logit-bias", "x"], "TOKEN=BIAS"),
        (["--logit-bias", "999999=1"], "999999"),
        (["--system", "x"], "needs --chat"),
        (["--context", "99999"], "99999"),
        (["--backend", "abacus"], "abacus"),
    ],
)
def test_wrong_values_name_themselves(soberano, tiny, more, says):
    answer = soberano("run", tiny, "hi", *FAST, *more)
    assert answer.status == 2 and answer.err.startswith("soberano: ") and says in answer.err
    assert answer.err.count("\n") == 1


def test_a_prompt_longer_than_the_context_is_refused(soberano, tiny):
    answer = soberano("run", tiny, "word " * 100, *FAST)
    assert answer.status == 2 and "64" in answer.err


def test_interrupting_keeps_what_was_said(soberano, tiny, monkeypatch):
    from soberano.models.generate import Generation

    step, calls = Generation.step, []

    def interrupted(self):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Generation, "step", interrupted)
    answer = soberano("run", tiny, "hi", *FAST, "--ignore-eos", "--json")
    assert answer.status == 130 and len(json.loads(answer.out)["tokens"]) == 3
