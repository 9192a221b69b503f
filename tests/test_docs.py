"""The documentation cannot fall behind: what is generated is fresh, what exists is named, links lead somewhere."""

import ast
import contextlib
import inspect
import io
import json
import re
from pathlib import Path

import pytest

from scripts import docs
from soberano.cli import main as cli
from soberano.core import errors
from soberano.core.settings import variables
from soberano.quant.blocks import all_formats

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.fixture(scope="module")
def reference() -> str:
    return docs.REFERENCE.read_text(encoding="utf-8")


def test_the_reference_is_fresh(reference: str):
    assert docs.reference() == reference, "docs/reference.md is behind the code; run: make docs"


def test_the_list_of_files_is_fresh():
    assert docs.files() == docs.FILES.read_text(encoding="utf-8"), "docs/files.md is behind the code; run: make docs"


def test_the_readmes_generated_blocks_are_fresh():
    text = docs.README.read_text(encoding="utf-8")
    assert {name for _, name, _ in docs.BLOCK.findall(text)} == set(docs.BLOCKS)
    assert docs.readme(text) == text, "README.md is behind the code; run: make docs"


def test_a_row_of_a_changed_tree_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    row = {"machine": "m", "backend": "cpu", "case": "c", "ours": 1.0, "unit": "s", "date": "2026-11-24"}
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    lines = [json.dumps(row | {"case": case, "commit": f"0123456789{case}"}) for case in ("", "+")]
    (results / "m.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert re.findall(r"2026-11-24 (\S+)", docs.benchmarks()) == ["0123456", "0123456+"]


def test_the_tree_has_words_for_every_file():
    lines = [line for line in docs.tree().splitlines() if line.startswith("    ")]
    assert len(lines) > 50 and [line for line in lines if len(line.split()) < 2] == []


def test_the_tree_takes_the_docstring_not_the_comment_above_it(tmp_path: Path):
    (tmp_path / "a.py").write_text('# ruff: noqa: X  because\n"""Say what it is for.\n\nMore."""\n')
    assert docs._about(tmp_path / "a.py") == "Say what it is for"


def test_the_tree_takes_one_sentence(tmp_path: Path):
    (tmp_path / "a.py").write_text('"""Say what it is for. Then say more of it.\n"""\n')
    assert docs._about(tmp_path / "a.py") == "Say what it is for"


def test_python_in_the_readme_bounds_every_answer_and_parses():
    blocks = re.findall(r"```python\n(.*?)```", docs.README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        calls = [n for n in ast.walk(ast.parse(block)) if isinstance(n, ast.Call)]
        made = [c for c in calls if getattr(c.func, "attr", "") in ("generate", "create")]
        assert made and all("max_tokens" in {k.arg for k in c.keywords} for c in made), block


def test_every_name_is_in_the_reference(reference: str):
    kinds = [n for n, c in vars(errors).items() if inspect.isclass(c) and c.__module__ == errors.__name__]
    assert [n for n in kinds if f"`{n}`" not in reference] == [], "run: make docs"
    assert [n for n, _, _ in variables() if f"`{n}`" not in reference] == []
    assert [f.name for f in all_formats() if f"`{f.name}`" not in reference] == []
    assert [op for op in docs.all_ops() if f"{op.__module__.rpartition('.')[2]}.{op.__name__}]" not in reference] == []
    for name in cli.names():
        section = reference.partition(f"### soberano {name}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
        assert section, f"no section for soberano {name}"
        assert [flag for flag in flags_of(name) if f"`{flag}" not in section] == []


def flags_of(*name: str) -> set[str]:
    """Every flag of a command and of those below it, read from its own help rather than from the generator's tables."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main([*name, "--help"]) == 0
    usage = out.getvalue()
    below = re.search(r"^  KIND\n((?:    .*\n)+)", usage, re.MULTILINE)
    kinds = re.findall(r"^    (\w+)", below[1], re.MULTILINE) if below else []
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", usage)) - {"--help"}
    return flags.union(*(flags_of(*name, kind) for kind in kinds))


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        where = (page.parent / path) if path else page
        assert where.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", where.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page.name} links to {target}, and there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_commands_in_the_pages_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL))
    used = re.findall(r"(?:^|\s|&& )soberano ([a-z]+)", blocks, re.MULTILINE) + re.findall(r"`soberano ([a-z]+)", text)
    assert set(used) <= set(cli.names()), f"{page.name} shows commands that do not exist"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets


def test_decisions_are_numbered_without_a_gap():
    numbers = [int(p.name[:4]) for p in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_prose_names_is_there():
    """A module, or a name in one, that a comment, docstring or page spells out: soberano.ops.norm.rms_norm."""
    missing = []
    for path in [*PAGES, *(p for p in ROOT.glob("soberano/**/*") if p.suffix in (".py", ".h", ".cc"))]:
        for dotted in re.findall(r"(?<![\"'\w.])soberano((?:\.\w+)+)", path.read_text(encoding="utf-8")):
            at, parts = ROOT / "soberano", dotted[1:].split(".")
            while parts and (at / parts[0]).is_dir():
                at /= parts.pop(0)
            module = at / f"{parts[0]}.py" if parts else at
            name = parts[1:] if module.is_file() else parts
            text = (module if module.is_file() else at / "__init__.py").read_text(encoding="utf-8") if name else ""
            if name and not name[0].startswith("__") and not re.search(rf"\b{re.escape(name[0])}\b", text):
                missing.append(f"{path.relative_to(ROOT)}: soberano{dotted}")
    assert not missing, missing
