"""Evidence: the official `openai` client against `soberano serve` with the demo model, or with the MODEL that is named.

    make evidence TOPIC=openai_client

Prints what each case saw, and exits with 1 when one does not hold.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import openai

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.server.live import program

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]


def plain(client: openai.OpenAI, model: str) -> str:
    """A greedy answer is an answer, with its counts."""
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=40)
    text = answer.choices[0].message.content
    assert text and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return f"{text!r}, {answer.usage.completion_tokens} tokens, {answer.choices[0].finish_reason}"


def stream(client: openai.OpenAI, model: str) -> str:
    """A stream says what the whole answer says, and ends with its usage."""
    wanted = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 40}
    chunks = list(client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == client.chat.completions.create(**wanted).choices[0].message.content
    assert chunks[-1].usage and not chunks[-1].choices
    return f"{len(chunks)} chunks, the same text as without a stream"


def logprobs(client: openai.OpenAI, model: str) -> str:
    """Greedy tokens are the best ones, and each has its alternatives and bytes."""
    wanted = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 5}
    scores = client.chat.completions.create(**wanted, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert all(score.token == score.top_logprobs[0].token and score.logprob <= 0 for score in scores)
    assert all(len(score.top_logprobs) == 3 and score.bytes is not None for score in scores)
    return ", ".join(f"{score.token!r} {score.logprob:.2f}" for score in scores)


def stop(client: openai.OpenAI, model: str) -> str:
    """A stop string ends the answer and is not part of it."""
    wanted = {"model": model, "prompt": "one, two, three, four, five, six,", "temperature": 0, "max_tokens": 40}
    text = client.completions.create(**wanted).choices[0].text
    mark = text[len(text) // 2 :][:3]
    cut = client.completions.create(**wanted, stop=mark).choices[0]
    assert cut.text == text[: text.index(mark)] and cut.finish_reason == "stop"
    return f"{text!r} stopped at {mark!r} is {cut.text!r}"


def seed(client: openai.OpenAI, model: str) -> str:
    """The same seed draws the same answer, another seed another one."""
    texts = [
        client.chat.completions.create(model=model, messages=QUESTION, temperature=1.5, max_tokens=30, seed=number)
        .choices[0]
        .message.content
        for number in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    return f"seed 1 twice {texts[0][:40]!r}, seed 2 {texts[2][:40]!r}"


def error(client: openai.OpenAI, model: str) -> str:
    """What is wrong is named: a value, a parameter that is not served, a model, a prompt that is too long."""
    seen = []
    for wrong in ({"temperature": 9}, {"response_format": {"type": "json_object"}}, {"model": "nobody"}):
        try:
            client.chat.completions.create(**{"model": model, "messages": QUESTION} | wrong)
        except openai.APIStatusError as refusal:
            seen.append(f"{refusal.status_code} {refusal.code} {refusal.param}")
    try:
        client.completions.create(model=model, prompt=[1] * 100_000)
    except openai.BadRequestError as refusal:
        seen.append(f"{refusal.status_code} {refusal.code}")
    assert [case.split()[0] for case in seen] == ["400", "400", "404", "400"]
    return "; ".join(seen)


CASES: list[Callable[[openai.OpenAI, str], str]] = [plain, stream, logprobs, stop, seed, error]


def main(arguments: list[str]) -> int:
    """Run every case; return the exit status."""
    failed = 0
    with (
        program(*(arguments or ["--demo"])) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client,
    ):
        model = client.models.list().data[0].id
        print(f"openai {openai.__version__} against {address}, model {model}")
        for case in CASES:
            try:
                print(f"holds   {case.__name__:9} {case(client, model)}")
            except (AssertionError, openai.OpenAIError) as why:
                failed += 1
                print(f"FAILED  {case.__name__:9} {case.__doc__} {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
