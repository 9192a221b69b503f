"""Adapters served beside their model: each under its own name, over the same weights, and never mixed up."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.cli.main import main
from soberano.core.errors import InputError
from soberano.core.hashing import sha256
from soberano.models.adapter import Pair
from soberano.models.model import Model
from soberano.server.app import serve
from soberano.train.adapters import Shape, fresh
from soberano.train.export import write_gguf
from tests.server.live import serving
from tests.tiny import write_tiny_llama

SHAPE = Shape(rank=4, alpha=8.0)
PROMPT, NEW = list(range(3, 20)), 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, and two adapters of it."""
    folder = tmp_path_factory.mktemp("adapters")
    found = {name: folder / f"{name}.gguf" for name in ("base", "one", "two", "foreign")}
    write_tiny_llama(found["base"])
    with soberano.load(found["base"], backend="numpy") as model:
        for seed, name in enumerate(("one", "two", "foreign")):
            rng = np.random.default_rng(seed)
            pairs = fresh(model.module, model.config, SHAPE, seed)
            pairs = {k: Pair(p.a, rng.normal(size=p.b.shape).astype(np.float32) / 4) for k, p in pairs.items()}
            said = {"architecture": "llama", "name": name, "base_hash": sha256(found["base"])}
            write_gguf(found[name], pairs, SHAPE, **(said if name != "foreign" else said | {"base_hash": "0" * 64}))
    return found


@pytest.fixture(scope="module")
def alone(files: dict[str, Path]) -> dict[str | None, str]:
    """What each says where it is the only one."""
    found = {}
    for name in (None, "one", "two"):
        with soberano.load(files["base"], backend="numpy", adapter=name and files[name]) as model:
            found[name] = "".join(model.generate(PROMPT, max_tokens=NEW, temperature=0, ignore_eos=True))
    assert len(set(found.values())) == 3
    return found


@pytest.fixture
def model(files: dict[str, Path]) -> Iterator[Model]:
    with soberano.load(files["base"], backend="numpy", sequences=4) as found:
        found.add_adapter("one", files["one"])
        found.add_adapter("two", files["two"])
        yield found


async def complete(client: Any, name: str | None, status: int = 200) -> Any:
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": NEW, "temperature": 0, "ignore_eos": True}
    async with client.post("/v1/completions", json=body | ({"model": name} if name else {})) as response:
        found = await response.json()
        assert response.status == status, found
        return found


async def test_each_answers_as_it_does_alone(model: Model, alone: dict[str | None, str]) -> None:
    async with serving(model, name="base") as client:
        names = [None, "one", "two", "base", "one", None]
        found = await asyncio.gather(*(complete(client, name) for name in names))  # in turns, token by token
        for name, answer in zip(names, found, strict=True):
            assert answer["choices"][0]["text"] == alone[None if name == "base" else name]
            assert answer["model"] == (name or "base")


async def test_they_are_listed_as_models(model: Model) -> None:
    async with serving(model, name="base") as client:
        async with client.get("/v1/models") as response:
            cards = (await response.json())["data"]
        assert [(card["id"], card.get("parent")) for card in cards] == [
            ("base", None),
            ("one", "base"),
            ("two", "base"),
        ]
        async with client.get("/v1/models/two") as response:
            assert (await response.json())["parent"] == "base"
        error = (await complete(client, "three", 404))["error"]
        assert error["message"] == "no model is called 'three'; this server has 'base', 'one', 'two'"


def test_the_weights_are_those_of_the_base(model: Model) -> None:
    for adapted in model.adapters.values():
        assert adapted.token_embd is model.weights.token_embd
        assert adapted.blk.attn_q.base is model.weights.blk.attn_q


def test_what_is_refused(model: Model, files: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="no adapter is called 'three'; there are: one, two"):
        model.start(PROMPT, soberano.Options(adapter="three"))
    with pytest.raises(InputError, match="two adapters are called 'one'; give one of them another name"):
        model.add_adapter("one", files["one"])
    with pytest.raises(InputError, match="was trained on the file with SHA-256 0000000000000000"):
        model.add_adapter("foreign", files["foreign"])
    assert list(model.adapters) == ["one", "two"] and not caplog.records


def test_a_wrong_one_stops_the_start(files: dict[str, Path]) -> None:
    for adapters, why in (
        ({"tuned": files["foreign"]}, "was trained on the file with SHA-256"),
        ({"base": files["one"]}, "an adapter and the model are both called 'base'"),
        ({"tuned": files["base"]}, "is no LoRA adapter"),
    ):
        with pytest.raises(InputError, match=why):
            serve(files["base"], port=0, backend="numpy", adapters=adapters)


@pytest.mark.parametrize(
    "given,why",
    [
        (["--adapter", "tuned"], "'tuned' is not NAME=FILE, as in tuned=adapter/adapter.gguf"),
        (["--adapter", "a=x.gguf", "--adapter", "a=y.gguf"], "two adapters have one name"),
    ],
)
def test_names_on_the_command_line(
    given: list[str], why: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["serve", str(files["base"]), *given])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2 and why in capsys.readouterr().err


def test_one_that_names_no_base_is_warned_of(
    model: Model, files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from soberano.formats import gguf

    with gguf.read(files["one"]) as file:
        tensors = {name: (info.format, np.array(file.raw(name))) for name, info in file.tensors.items()}
        said = {k: gguf.Typed(file.kinds[k], v) for k, v in file.metadata.items() if k != "soberano.base.sha256"}
    gguf.write(tmp_path / "silent.gguf", said, tensors)
    with caplog.at_level(logging.WARNING):
        model.add_adapter("silent", tmp_path / "silent.gguf")
    (warning,) = caplog.records
    assert "does not say which file it was trained on" in warning.getMessage()
