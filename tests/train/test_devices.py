"""One device and eight compute the same step; what cannot be shared is refused. Eight are made of one processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import soberano
from soberano.core.errors import InputError, Unsupported
from soberano.train.run import Run, Settings
from tests.tiny import write_tiny_llama
from tests.train.test_run import SETTINGS, texts

PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path
import jax, soberano
from tests.train.test_run import SETTINGS, texts
from soberano.train.run import Run
found = {}
with soberano.load(sys.argv[1], backend="xla") as model:
    for name, devices, share in (("one", 1, False), ("copies", 8, False), ("shares", 8, True)):
        folder = Path(sys.argv[2]) / name
        folder.mkdir()
        settings = replace(SETTINGS, rows=8, accumulate=1, epochs=2, devices=devices, share_base=share)
        run, rows = Run(model, texts(40), texts(8), settings, folder), []
        run.train(rows.append)
        q = run._devices.weights.blk.attn_q.members[0]
        data = getattr(q, "data", q)
        found[name] = {
            "losses": [row.get("loss", row.get("held_out_loss")) for row in rows],
            "b": float(sum(abs(pair.b).sum() for pair in run.pairs.values())),
            "devices": len(data.sharding.device_set),
            "held": data.addressable_shards[0].data.nbytes / data.nbytes,
        }
print(json.dumps(found))
"""


def test_eight_devices_compute_what_one_does(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf")
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "tiny.gguf"), str(tmp_path)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert [found[name]["devices"] for name in ("one", "copies", "shares")] == [1, 8, 8]
    assert [found[name]["held"] for name in ("one", "copies", "shares")] == [1, 1, 1 / 8]
    for name in ("copies", "shares"):
        np.testing.assert_allclose(found[name]["losses"], found["one"]["losses"], atol=1e-5)
        assert found[name]["b"] == pytest.approx(found["one"]["b"], rel=1e-4)
    assert len(found["one"]["losses"]) > 4 and found["one"]["losses"][-1] < found["one"]["losses"][0]


def test_what_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 devices cannot share 3 rows evenly; let rows be a multiple"):
        Settings(devices=2, rows=3).check()
    write_tiny_llama(tmp_path / "tiny.gguf")
    two = Settings(shape=SETTINGS.shape, devices=2, rows=2)
    for backend, why in (
        ("cpu", "several need the backend xla"),
        ("numpy", "numpy computes on one device, not on 2"),
        ("xla", "there are 1 devices of JAX, cpu, and not 2"),
    ):
        with soberano.load(tmp_path / "tiny.gguf", backend=backend) as model:
            if backend == "cpu" and not model.plan.native:
                continue
            with pytest.raises(Unsupported, match=why):
                Run(model, texts(4), [], two, tmp_path)
