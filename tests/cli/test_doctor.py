import json

import pytest

from soberano.cli import doctor
from tests.tiny_encoders import RANKERS, Tiny


@pytest.fixture(autouse=True)
def quick(setenv):
    """No compiler: what the kernels do is tested beside them."""
    setenv(SOBERANO_NATIVE="off", SOBERANO_BACKEND=None)


def findings(answer):
    return {f["name"]: f for f in json.loads(answer.out)["findings"]}


def test_everything_is_looked_at_and_every_loss_has_a_hint(soberano, cache):
    answer = soberano("doctor", "--json")
    found = findings(answer)
    wanted = ["settings", "python", "libraries", "home numpy", "home jax", "home cupy", "cache", "models", "network"]
    assert {*wanted, "kernels", "plan"} <= set(found)
    assert answer.status == 0 and json.loads(answer.out)["ok"]
    assert found["kernels"]["state"] == "lost" and "SOBERANO_NATIVE" in found["settings"]["value"]
    assert all(f["hint"] for f in found.values() if f["state"] == "lost")
    text = soberano("doctor").out
    assert "because" in text and text.rstrip().endswith("could be better (marked -).")


def test_a_variable_that_nothing_reads_is_named(soberano, cache, setenv):
    setenv(SOBERANO_OFLINE="1")
    found = findings(soberano("doctor", "--json"))["unknown"]
    assert found["state"] == "lost" and found["hint"] == "SOBERANO_OFLINE: did you mean SOBERANO_OFFLINE?"


def test_an_unknown_backend_hears_of_those_that_may_be_asked_for(soberano, cache):
    found = findings(soberano("doctor", "--backend", "tpu", "--json"))["plan"]
    assert found["state"] == "broken" and "auto, cpu, cuda, xla, numpy" in found["value"]


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"SOBERANO_THREADS": "many"}, "settings"),
        ({"SOBERANO_BACKEND": "abacus"}, "plan"),
        ({"SOBERANO_NATIVE": "require", "SOBERANO_CXX": "no-such-compiler"}, "kernels"),
    ],
)
def test_what_is_broken_fails(soberano, cache, setenv, monkeypatch, variables, name):
    monkeypatch.setattr("soberano.backends.native._loaded", None)
    setenv(**variables)
    answer = soberano("doctor", "--json")
    assert answer.status == 1 and not json.loads(answer.out)["ok"]
    assert findings(answer)[name]["state"] == "broken"


def test_a_read_only_cache_is_a_loss(soberano, setenv, tmp_path):
    (tmp_path / "wall").write_text("")
    setenv(SOBERANO_CACHE=str(tmp_path / "wall" / "cache"))
    found = findings(soberano("doctor", "--json"))
    assert found["cache"]["state"] == "lost" and "SOBERANO_CACHE" in found["cache"]["hint"]


def test_a_bug_in_a_check_is_a_finding(monkeypatch):
    def _ill() -> list:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(doctor, "_machine", _ill)
    found = {f.name: f for f in doctor.look(None, None, lambda *a: None)}
    assert found["ill"].state == "broken" and "oops" in found["ill"].value and "plan" in found


def test_a_model_is_run_for_a_moment(soberano, cache, tiny):
    found = findings(soberano("doctor", tiny, "--backend", "numpy", "--json"))
    assert "16 tokens" in found["model"]["value"]


def test_a_cross_encoder_is_run_too(soberano, cache, tmp_path):
    path = Tiny("bert", RANKERS).write_gguf(tmp_path / "m.gguf")
    answer = soberano("doctor", path, "--backend", "numpy")
    assert "of a pair of texts]" in answer.out and "Tiny bert on numpy" in answer.out
