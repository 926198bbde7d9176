"""The rules of the house that a program can check: sizes, import order, names, settings, heavy imports.

Each rule is a function from one source file to the places that break it. Each is also shown a sample that
must break it, so that no rule can hold by looking at nothing.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CODE_FOLDERS = ("jtl", "tests", "configs", "benchmarks")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
MAX_TYPE_IGNORES = 10

# A unit (file or folder of jtl) imports units of earlier rows, and none of its own row.
ORDER = (
    ("errors", "heap", "names", "signals", "output", "peers"),
    ("engines", "files", "ranges", "memory"),
    ("distributed", "owner", "object_store", "faults", "tree", "rng", "metrics", "runtime"),
    ("inputs",),
    ("data", "models", "tasks", "report"),
    ("weights", "strategies"),
    ("training",),
    ("predictor", "ranking"),
    # What is made of a model and what is seen in one: rooms, as `jtl serve` and reports stand on them too.
    ("export", "explain"),
    ("serve",),
    ("verbs",),
    ("api",),
    ("cli",),
    ("main", "__main__"),
)
ROW = {unit: row for row, units in enumerate(ORDER) for unit in units}
HEAVY = {
    "h5py",
    "huggingface_hub",
    "jax2onnx",
    "matplotlib",
    "onnxruntime",
    "pyarrow",
    "scipy",
    "sentencepiece",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "tensorstore",
    "tokenizers",
}
FORBIDDEN_WORDS = {"utils", "util", "helpers", "helper", "manager", "misc", "common"}
REGISTRIES = ("MODELS", "TASKS", "STRATEGIES", "SOURCES")
DISTRIBUTIONS = {
    **{"absl": "absl-py", "orbax": "orbax-checkpoint", "PIL": "pillow", "sklearn": "scikit-learn"},
    **{"cv2": "opencv-python-headless", "tensorflow": "tensorflow-cpu", "yaml": "pyyaml"},
}

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users|mnt|opt|tmp)/\w")
REGISTRY_HOST = re.compile(r"pypi\.|pythonhosted|npmjs|artifactory|jfrog|file:///|--(?:extra-)?index-url")
LEFT_OVER = re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX)\b|#\s*[-=#*~]{4,}|\bissues? #?\d")
CODE_IN_DOCUMENT = re.compile(
    r"```.*?\n(.*?)```|(?<!`)`([^`\n]+)`|^(?: {4}|\t)(.+?)$", re.DOTALL | re.MULTILINE
)


class Source(NamedTuple):
    """One Python file: its path from the root, its text and its syntax tree."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def unit(self) -> str:
        return Path(self.path).parts[1].removesuffix(".py")


def sources(*folders: str) -> list[Source]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [Source(str(path.relative_to(ROOT)), path.read_text()) for path in paths]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported dotted name and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def imports_at_import(node: ast.AST) -> Iterator[tuple[str, int]]:
    """As `imports`, of what runs when the module is imported: function bodies do not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from imports(ast.Module([child], []))
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_at_import(child)


def long_files(source: Source) -> list[str]:
    count = len(source.text.splitlines())
    return [f"{source.path}: {count} lines"] if count >= MAX_FILE_LINES else []


def long_functions(source: Source) -> list[str]:
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0]
            docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
            count = node.end_lineno - node.lineno + 1 - docstring
            found += (
                [f"{source.path}:{node.lineno} {node.name}: {count}"] if count >= MAX_FUNCTION_LINES else []
            )
    return found


def import_order(source: Source) -> list[str]:
    if source.path == "jtl/__init__.py":
        return []
    if source.unit not in ROW:
        return [f"{source.path}: {source.unit!r} has no place in the import order"]
    found = []
    for name, line in imports(source.tree):
        parts = name.split(".")
        unit = parts[1] if parts[0] == "jtl" and len(parts) > 1 else ""
        is_allowed = unit in ("", "__version__", source.unit) or ROW.get(unit, len(ORDER)) < ROW[source.unit]
        found += [] if is_allowed else [f"{source.path}:{line} {source.unit} imports {unit}"]
    return found


def vague_names(source: Source) -> list[str]:
    names = [*Path(source.path).with_suffix("").parts]
    nodes = [node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)]
    names += [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower() for node in nodes]
    return [f"{source.path}: {name}" for name in names if FORBIDDEN_WORDS & set(name.split("_"))]


def future_annotations(source: Source) -> list[str]:
    return [
        f"{source.path}:{line}" for name, line in imports(source.tree) if name == "__future__.annotations"
    ]


def standard_output(source: Source) -> list[str]:
    if source.unit in ("cli", "verbs"):
        return []
    found = []
    for node in ast.walk(source.tree):
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print or (isinstance(node, ast.Attribute) and node.attr == "stdout"):
            found.append(f"{source.path}:{getattr(node, 'lineno', 0)}")
    return found


def locale_encodings(source: Source) -> list[str]:
    """Text read or written without saying its encoding, which is then the locale's."""
    found = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or any(each.arg == "encoding" for each in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        is_builtin = isinstance(node.func, ast.Name)
        modes = node.args[int(is_builtin) :][:1]
        words = [each.value for mode in modes for each in ast.walk(mode) if isinstance(each, ast.Constant)]
        mode = words[0] if words else "r"
        is_open = name == "open" and (is_builtin or not modes or re.fullmatch("[rwaxt+b]+", str(mode)))
        is_text = is_open and "b" not in str(mode) and (is_builtin or _is_path(node.func))
        if is_text or (name in ("read_text", "write_text") and not node.args[int(name == "write_text") :]):
            found.append(f"{source.path}:{node.lineno}")
    return found


def _is_path(called: ast.expr) -> bool:
    """Return whether the thing opened is a path by its name: modules and archives open other things."""
    owner = getattr(called, "value", None)
    return getattr(owner, "id", "") in ("path", "part", "out") or isinstance(owner, ast.BinOp)


def heavy_imports(source: Source) -> list[str]:
    found = imports_at_import(source.tree)
    return [f"{source.path}:{line} {name}" for name, line in found if name.split(".")[0] in HEAVY]


def branches_on_names(source: Source) -> list[str]:
    """Comparisons and match cases with a literal that is a key of one of the explicit dicts.

    A kind of labels, which a task asks for and a source gives, is no name, though some are spelt alike.
    """
    found = []
    for node in ast.walk(source.tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        leaves = [leaf for part in parts for leaf in ast.walk(part)]
        if not any("kind" in (getattr(leaf, "attr", ""), getattr(leaf, "id", "")) for leaf in leaves):
            words = [leaf.value for leaf in leaves if isinstance(leaf, ast.Constant)]
            found += [f"{source.path}:{node.lineno} {word!r}" for word in words if word in registry_names()]
    return found


def left_overs(source: Source) -> list[str]:
    rows = enumerate(source.text.splitlines(), start=1)
    return [f"{source.path}:{number} {row.strip()}" for number, row in rows if LEFT_OVER.search(row)]


def undeclared_imports(source: Source) -> list[str]:
    found = []
    for name, line in imports(source.tree):
        package = name.split(".")[0]
        distribution = DISTRIBUTIONS.get(package, package).lower().replace("_", "-")
        is_known = package in ("jtl", *sys.stdlib_module_names) or distribution in declared()
        found += [] if is_known else [f"{source.path}:{line} {package}"]
    return found


def registry_names() -> set[str]:
    from jtl import data, models, strategies, tasks

    folders = (data, models, strategies, tasks)
    return {key for folder in folders for name in REGISTRIES for key in getattr(folder, name, {})}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # What an import that fails tells the user to install.
    shipped = ("keras", "zero-shot", "heif", "fast", "onnx", "tf", "serve", "tune")
    extras = (project["optional-dependencies"][name] for name in shipped)
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = [re.split(r"[<>=~;\[ ]", line)[0] for line in lines]
    return {name.lower().replace("_", "-") for name in names}


RULES: dict[Callable[[Source], list[str]], tuple[tuple[str, ...], Source]] = {
    long_files: (CODE_FOLDERS, Source("jtl/tree.py", "x = 1\n" * MAX_FILE_LINES)),
    long_functions: (
        CODE_FOLDERS,
        Source("jtl/tree.py", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)),
    ),
    import_order: (("jtl",), Source("jtl/data/files.py", "from jtl.models import vit")),
    vague_names: (CODE_FOLDERS, Source("jtl/data/files.py", "class RunManager: ...")),
    future_annotations: (CODE_FOLDERS, Source("jtl/tree.py", "from __future__ import annotations")),
    standard_output: (("jtl",), Source("jtl/tree.py", "def f():\n    sys.stdout.write('x')")),
    heavy_imports: (
        ("jtl",),
        Source("jtl/tree.py", "try:\n    import sklearn.datasets\nexcept OSError: ..."),
    ),
    locale_encodings: (("jtl",), Source("jtl/tree.py", "def f(path):\n    return path.read_text()")),
    branches_on_names: (("jtl",), Source("jtl/training/run.py", "if x.name in ('probe', 'other'): ...")),
    left_overs: (CODE_FOLDERS, Source("jtl/tree.py", "x = 1  # TO" + "DO: more")),
    undeclared_imports: (("jtl",), Source("jtl/tree.py", "def f():\n    import clu.metrics")),
}
MORE_SAMPLES = [
    (import_order, Source("jtl/models/vit.py", "def f():\n    from jtl.data import files")),
    (import_order, Source("jtl/training/step.py", "import jtl.verbs.bench")),
    (import_order, Source("jtl/new.py", "")),
    (vague_names, Source("jtl/image_utils.py", "")),
    (standard_output, Source("jtl/tree.py", "print(1)")),
    (locale_encodings, Source("jtl/tree.py", "open('a.txt')")),
    (locale_encodings, Source("jtl/tree.py", "path.open('w', newline='')")),
    (branches_on_names, Source("jtl/training/run.py", "match name:\n    case 'vit': ...")),
    (left_overs, Source("jtl/tree.py", "# " + "-" * 20)),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Source], list[str]]) -> None:
    folders, _ = RULES[rule]
    looked_at = sources(*folders)
    assert len(looked_at) > 20
    assert [place for source in looked_at for place in rule(source)] == []


@pytest.mark.parametrize(
    ("rule", "sample"), [*((rule, sample) for rule, (_, sample) in RULES.items()), *MORE_SAMPLES]
)
def test_rule_finds_what_breaks_it(rule: Callable[[Source], list[str]], sample: Source) -> None:
    assert len(rule(sample)) == 1


def test_type_checker_is_silenced_rarely_and_with_a_reason() -> None:
    ignores = [
        (source.path, row)
        for source in sources("jtl")
        for row in source.text.splitlines()
        if re.search(r"(?:type|pyright): ?ignore", row)
    ]
    assert len(ignores) < MAX_TYPE_IGNORES
    assert [place for place in ignores if not re.search(r"ignore\[[\w, -]+\]\s+#\s*\w", place[1])] == []


def test_importing_the_package_or_its_command_line_loads_no_library() -> None:
    libraries = {"jax", "numpy", "flax", "optax", "orbax", "grain", "ml_collections", *HEAVY}
    code = f"import jtl, jtl.cli, sys; sys.exit(sorted({libraries!r} & sys.modules.keys()) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def text_files() -> Iterator[tuple[str, str]]:
    tops = [path for path in ROOT.iterdir() if path.is_file()]
    below = [
        path
        for folder in (*CODE_FOLDERS, "docs", "launch", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    ]
    for path in tops + below:
        if "__pycache__" not in path.parts:
            try:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["path", "host"])
def test_no_file_knows_a_machine(pattern: re.Pattern[str]) -> None:
    found = [f"{path}: {match.group()}" for path, text in text_files() for match in pattern.finditer(text)]
    assert [place for place in found if not place.startswith("tests/test_layout.py")] == []


def test_patterns_of_machines_find_them() -> None:
    assert MACHINE_PATH.search("cd " + "/wo" + "rk/main")
    assert MACHINE_PATH.search('"/root' + '/x"')
    assert not MACHINE_PATH.search("https://host/home/page, ../work/x")
    assert REGISTRY_HOST.search("https://py" + "pi.org/simple")


def commands(text: str) -> dict[str, set[str]]:
    """The verbs, make targets and config files that a document tells its reader to use."""
    code = "\n".join("".join(groups) for groups in CODE_IN_DOCUMENT.findall(text))
    return {
        "verb": set(re.findall(r"(?:^|[\s;&|(])(?:python -m )?jtl ([a-z]+(?:-[a-z]+)*)\b", code)),
        "target": set(re.findall(r"\bmake ([a-z-]+)\b", code)),
        "config": set(re.findall(r"\bconfigs/\w+\.py\b", code)),
    }


DOCUMENTS = tuple(sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def test_commands_of_the_documents_exist() -> None:
    from jtl.verbs import VERBS

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in ("README.md", "CHANGELOG.md", "Makefile", *DOCUMENTS):
        told = commands((ROOT / document).read_text())
        assert told["verb"] <= VERBS.keys()
        assert told["target"] <= targets
        assert [name for name in told["config"] if not (ROOT / name).is_file()] == []
    for source in sources("configs"):
        named = set(re.findall(r"configs/\w+\.py", ast.get_docstring(source.tree) or ""))
        assert named == {source.path}, f"{source.path} says how to run {named or 'nothing'}"


def test_commands_are_found_in_documents() -> None:
    text = "Run `make run`, or\n\n```bash\njtl train --config configs/a.py:b16\npython -m jtl fly\n```\n"
    assert commands(text) == {"verb": {"train", "fly"}, "target": {"run"}, "config": {"configs/a.py"}}
