import json


def test_pull_list_and_use_by_name(soberano, cache, tiny):
    rows = json.loads(soberano("pull", "--json").out)
    assert [r["name"] for r in rows][:1] == ["smollm2"] and not any(r["here"] for r in rows)
    record = json.loads(soberano("pull", f"file:{tiny}", "--name", "mine", "--json").out)
    assert record["name"] == "mine" and record["size"] == tiny.stat().st_size
    listed = soberano("pull").out
    assert "mine" in listed and "smollm2" in listed and "Apache-2.0" in listed
    assert soberano("inspect", "mine").status == 0
    assert soberano("pull", tiny, "--name", "mine").status == 0


def test_offline_is_refused_with_the_cure(soberano, cache, setenv):
    setenv(SOBERANO_OFFLINE="1")
    answer = soberano("pull", "smollm2")
    assert answer.status == 2 and "SOBERANO_OFFLINE=1" in answer.err and "soberano pull file:PATH" in answer.err


def test_terms_come_first(soberano, cache):
    answer = soberano("pull", "gemma3-270m")
    assert answer.status == 2 and "--accept-terms" in answer.err
