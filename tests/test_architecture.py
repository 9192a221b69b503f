"""The house holds: packages import downwards only, each dependency stays in its rooms, kernels lie beside their ops.

Everything is read from the syntax trees, so imports inside functions, under TYPE_CHECKING and by a literal
`import_module` count, and nothing here imports the code that it judges.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "soberano"

# Rows from the roof to the ground. A package may import packages in rows below its own, never above or beside.
LAYERS = [
    {"cli"},
    {"labs"},
    {"bench"},
    {"server", "gateway"},
    {"rag", "train", "learn"},
    {"models"},
    {"registry", "data"},
    {"text", "formats"},
    {"ops"},
    {"quant"},
    {"backends"},
    {"core"},
]

# Which files may import a module, and why. A module in none of these lists, nor here, nor in the harmless part of the
# standard library (everything that is not GUARDED), may not be imported at all: a new dependency adds its line.
ROOMS: dict[str, tuple[list[str], str]] = {
    "numpy": (["*"], "the array type that every layer shares"),
    "ml_dtypes": (["*"], "bfloat16 for NumPy; comes with jaxlib"),
    "jax": (["backends/jax_*.py", "backends/native*.py", "*_jax.py"], "nobody loads JAX who does not use it"),
    "jaxlib": (["backends/jax_*.py", "backends/native*.py", "*_jax.py"], "as jax"),
    "cupy": (["backends/cupy_*.py", "*_cupy.py"], "present on GPU machines only"),
    "cupyx": (["backends/cupy_*.py", "*_cupy.py"], "as cupy"),
    "tokenizers": (["text/*.py"], "the BPE and WordPiece engines"),
    "jinja2": (["text/*.py"], "chat templates, rendered in a limited worker"),
    "markupsafe": (["text/*.py"], "part of jinja2"),
    "aiohttp": (["server/*.py"], "the server; the client side of it would be a way out"),
    "prometheus_client": (["server/*.py"], "metrics"),
    "rich": (["cli/*.py"], "terminals only"),
    "pyarrow": (["formats/*.py"], "columns for other programs; an extra"),
    "matplotlib": (["train/picture.py"], "the picture of a run; an extra"),
    "optax": (["train/*.py"], "optimizers and schedules; an extra"),
    "flax": (["train/*.py"], "heads on frozen embeddings; an extra"),
    "llama_cpp": (["bench/peer_llama_cpp.py"], "a peer to measure against, where somebody has it"),
    "peft": (["bench/peer_peft.py"], "as llama_cpp"),
    "torch": (["bench/peer_peft.py"], "as llama_cpp"),
    "transformers": (["bench/peer_peft.py"], "as llama_cpp"),
    "faiss": (["bench/peer_knn.py"], "as llama_cpp"),
    "usearch": (["bench/peer_knn.py"], "as llama_cpp"),
    # Ways out of the process, from the standard library.
    "socket": (["core/egress.py", "server/*.py"], "egress is one room; the server binds its port"),
    "ssl": (["core/egress.py", "server/*.py"], "certificates of the way out and of the way in"),
    "urllib": (["core/egress.py"], "egress is one room"),
    "http": (["core/egress.py", "server/*.py"], "egress is one room; the server names status codes"),
    "ftplib": ([], "no way out"),
    "smtplib": ([], "no way out"),
    "xmlrpc": ([], "no way out"),
    "webbrowser": ([], "no way out"),
    "subprocess": (
        ["core/egress.py", "backends/native*.py", "text/chat*.py", "text/worker*.py", "bench/*.py"],
        "pip for downloads; the compiler; the limited worker of chat templates; peers of a benchmark",
    ),
    "multiprocessing": (["text/chat*.py", "text/worker*.py", "bench/*.py"], "as subprocess"),
    "ctypes": (["backends/native*.py", "bench/peer_llama_cpp.py"], "the one door to native code; and a peer's"),
    # Files from outside are attacks: nothing here reads code from a file.
    "pickle": ([], "a pickle is a program"),
    "marshal": ([], "a marshal file is a program"),
    "shelve": ([], "a shelf is a pickle"),
}

STANDARD = __import__("sys").stdlib_module_names
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(p.relative_to(PACKAGE)) for p in SOURCES]


def module_name(path: Path) -> str:
    """soberano/ops/norm.py -> soberano.ops.norm; a package's __init__.py is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """(module or module.name, line) of every import in a source, wherever it stands, relative ones made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                above = here[: len(here) - node.level + is_package]
                base = ".".join([*above, base]) if base else ".".join(above)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno


def imports_of(path: Path) -> list[tuple[str, int]]:
    return list(imports(path.read_text(), module_name(path), path.name == "__init__.py"))


class WithoutTypeChecking(ast.NodeTransformer):
    """Drop what only type checkers read: it never runs, so it cannot close a cycle."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if "TYPE_CHECKING" in ast.dump(node.test):
            return None
        return self.generic_visit(node)


def imports_that_run(path: Path) -> set[str]:
    tree = ast.fix_missing_locations(WithoutTypeChecking().visit(ast.parse(path.read_text())))
    return {name for name, _ in imports(ast.unparse(tree), module_name(path), path.name == "__init__.py")}


def layer_of(module: str) -> int | None:
    """The row of a module of ours; None for the front door (soberano, soberano.__main__)."""
    package = module.split(".")[1] if "." in module else ""
    for row, packages in enumerate(LAYERS):
        if package in packages:
            return row
    return None


def test_imports_are_found_wherever_they_hide():
    source = """
def f():
    from . import b
    from ..core import errors
    import jax.numpy as jnp
    import_module("soberano.cli.main")
"""
    found = [name for name, _ in imports(source, "soberano.ops.a", False)]
    assert found == ["soberano.ops.b", "soberano.core.errors", "jax.numpy", "soberano.cli.main"]
    assert [name for name, _ in imports("from . import b", "soberano.ops", True)] == ["soberano.ops.b"]


def test_every_package_has_a_row():
    known = set().union(*LAYERS)
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.name.startswith(("__", "."))}
    assert folders <= known, f"packages without a row in LAYERS: {sorted(folders - known)}"
    loose = {p.name for p in PACKAGE.glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}, "a module belongs into a package"
    assert all((PACKAGE / folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_imports_point_down(path: Path):
    module = module_name(path)
    row = layer_of(module)
    if row is None:
        return  # the front door may name anything; test_import.py sees that it loads nothing
    for name, line in imports_of(path):
        if not name.startswith("soberano.") or name == "soberano.__version__":
            continue
        other = layer_of(name)
        assert other is not None, (
            f"{path.relative_to(ROOT)}:{line} imports the front door; import {name} from its own module"
        )
        same_package = name.split(".")[1] == module.split(".")[1]
        assert same_package or other > row, (
            f"{path.relative_to(ROOT)}:{line} imports {name}, which is not below it; see LAYERS for the rows"
        )


@pytest.mark.parametrize("package", sorted({p.parent.name for p in SOURCES if p.parent != PACKAGE}))
def test_no_cycles_inside_a_package(package: str):
    modules = {module_name(p): p for p in (PACKAGE / package).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        needs = set()
        for name in imports_that_run(path):
            found = name if name in modules else name.rpartition(".")[0]
            if found in modules and found != module:
                needs.add(found)
        graph[module] = needs
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(f"import cycle: {' -> '.join(reversed(cycle.args[1]))}")


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_each_dependency_stays_in_its_rooms(path: Path):
    here = str(path.relative_to(PACKAGE))
    for name, line in imports_of(path):
        root = name.partition(".")[0]
        if root == "soberano" or name.startswith("urllib.parse"):
            continue
        if root in ROOMS:
            allowed, why = ROOMS[root]
            assert any(fnmatch(here, room) for room in allowed), (
                f"soberano/{here}:{line} imports {root} ({why}); allowed in: {', '.join(allowed) or 'no file'}"
            )
        else:
            assert root in STANDARD, f"soberano/{here}:{line} imports {root}: a new dependency needs a line in ROOMS"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_the_environment_is_read_in_one_place(path: Path):
    if path == PACKAGE / "core" / "settings.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert name not in ("environ", "environb", "getenv", "putenv"), (
            f"{path.relative_to(ROOT)} reads the environment ({name}); add a field to core/settings.py"
        )


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_no_code_from_strings(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile"), (
                f"{path.relative_to(ROOT)}:{node.lineno} calls {node.func.id}"
            )
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            forbidden = node.attr in ("system", "popen", "fork") or node.attr.startswith(
                ("exec", "spawn", "posix_spawn")
            )
            assert not forbidden, (
                f"{path.relative_to(ROOT)}:{node.lineno} uses os.{node.attr}; subprocess has its rooms"
            )


def test_kernels_lie_beside_their_ops():
    beside = [p for end in ("*_jax.py", "*_cupy.py") for p in PACKAGE.rglob(end)]
    orphans = [p for p in beside if not p.with_name(p.stem.rpartition("_")[0] + ".py").is_file()]
    native = [p for end in ("*.cc", "*.cu") for p in PACKAGE.rglob(end)]
    orphans += [p for p in native if not p.with_suffix(".py").is_file()]
    assert not orphans, f"no .py of the same name beside {[str(p.relative_to(ROOT)) for p in orphans]}"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_one_idea_a_file(path: Path):
    source = path.read_text()
    lines = source.count("\n")
    assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines; 250 is the aim, 400 the end: is this two ideas?"
    assert ast.get_docstring(ast.parse(source)), f"{path.relative_to(ROOT)} does not say what it is for"


def test_every_file_of_the_package_would_ship():
    known = {".py", ".typed", ".cc", ".h", ".cu", ".html", ".css", ".js", ".svg", ".json", ".txt"}
    strays = [p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix not in known]
    strays = [p for p in strays if p.name != "py.typed"]
    assert not strays, f"what are these files in the package? {[str(p.relative_to(ROOT)) for p in strays]}"
