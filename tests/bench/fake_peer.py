"""A peer that loads nothing and answers at once, in the protocol of soberano/bench/peer_llama_cpp.py."""

import json
import sys
from typing import Any


def answer(do: str, flash: bool = True, **_: Any) -> dict[str, Any]:
    answers: dict[str, dict[str, Any]] = {
        "open": {"system": "CPU : AVX = 1 | AVX2 = 1 | AVX512 = 1 | ", "load_s": 0.5, "version": "9"},
        "time": {"prefill_s": 1.0 if flash else 2.0, "decode_s": 1.0 if flash else 0.5},
        "memory": {"private_bytes": 10**9, "peak_rss_bytes": 2 * 10**9},
    }
    if do not in answers:
        sys.exit(3)
    return answers[do]


if __name__ == "__main__":
    if sys.argv[1:2] == ["first"]:
        print("token")
    else:
        opened: dict[str, Any] = {}
        for line in sys.stdin:
            command = json.loads(line)
            opened |= command if command["do"] == "open" else {}
            found = answer(**command)
            if command["do"] == "memory" and not opened["flash"]:  # it takes less without
                found["private_bytes"] = 10**8
            print(json.dumps(found), flush=True)
