"""The rules of the layout, and the proof that breaking one of them is noticed."""

import ast
import functools
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "storage", "flows")
MODULES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TOOLS = Path(sys.executable).parent
MAX_LINES = 400
VAGUE = {"utils", "util", "common", "helpers", "helper", "base", "manager", "managers", "misc", "core"}

CONTRACTS = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
]


def lint_imports(folder):
    """The names of the broken contracts, and everything that was said."""
    command = [TOOLS / "lint-imports", "--no-cache"]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    broken = re.findall(r"^(.+) BROKEN", finished.stdout, re.MULTILINE)
    assert (finished.returncode == 0) == (not broken), finished.stdout + finished.stderr
    return set(broken), finished.stdout


def ruff(folder, *files):
    command = [TOOLS / "ruff", "check", "--no-cache", "--output-format=concise", "--select=TID253,T20", *files]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return {
        tuple(re.match(r"([^:]+):.*?: (\w+)", line).groups())
        for line in re.findall(r"^.+:\d+:\d+: .*$", finished.stdout, re.M)
    }


def copy_packages(folder):
    """A copy of the three packages, to plant violations in."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def plant(folder, module, code):
    with (folder / module).open("a") as file:
        file.write(f"\n\n{code}\n")


# contract -> (module, the line that breaks it, how the linter shows it)
VIOLATIONS = {
    "flows -> storage -> pipeline, never back": [
        ("pipeline/decision/plan.py", "import storage.workspace", "pipeline.decision.plan -> storage.workspace"),
        ("storage/models/versions.py", "import flows.settings", "storage.models.versions -> flows.settings"),
    ],
    "only flows knows Prefect and the terminal": [
        ("pipeline/decision/plan.py", "def late():\n    import prefect", "pipeline.decision.plan -> prefect"),
        ("storage/models/versions.py", "import rich", "storage.models.versions -> rich"),
    ],
    "storage keeps bytes, it does not run models": [
        ("storage/features/shards.py", "import keras", "storage.features.shards -> keras"),
        ("storage/features/shards.py", "def late():\n    import PIL.Image", "storage.features.shards -> PIL"),
    ],
    "only storage opens HDF5 and SQLite": [
        ("pipeline/engine/extract.py", "import h5py", "pipeline.engine.extract -> h5py"),
        ("flows/maintenance/listing.py", "import sqlite3", "flows.maintenance.listing -> sqlite3"),
    ],
    "flows touches no arrays": [
        ("flows/onboarding/story.py", "import numpy", "flows.onboarding.story -> numpy"),
        (
            "flows/onboarding/story.py",
            "def late():\n    from tensorflow import io",
            "flows.onboarding.story -> tensorflow",
        ),
    ],
    "storage knows pipeline's nouns, not its verbs": [
        (
            "storage/models/versions.py",
            "from pipeline.decision.plan import plan_case",
            "storage.models.versions -> pipeline.decision.plan",
        ),
        (
            "storage/models/versions.py",
            "import pipeline.images.decode",
            "storage.models.versions -> pipeline.images.decode",
        ),
    ],
    "pipeline's rooms, top to bottom": [
        (
            "pipeline/types.py",
            "def late():\n    import pipeline.decision.plan",
            "pipeline.types -> pipeline.decision.plan",
        ),
        ("pipeline/images/decode.py", "from pipeline import engine", "pipeline.images.decode -> pipeline.engine"),
    ],
    "storage's rooms, top to bottom": [
        ("storage/disk/hashes.py", "import storage.features.store", "storage.disk.hashes -> storage.features.store"),
    ],
    "flows' rooms, top to bottom": [
        ("flows/onboarding/story.py", "import flows.service.submit", "flows.onboarding.story -> flows.service.submit"),
    ],
    "no circle of files": [
        ("pipeline/heads/ridge.py", "import pipeline.heads.fit", ".ridge -> .fit"),
    ],
}


def test_every_import_contract_is_kept():
    assert lint_imports(ROOT)[0] == set()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """What the linter says of a copy with every violation planted, by contract: one run for all."""
    folder = copy_packages(tmp_path_factory.mktemp("planted"))
    for module, code, _ in (violation for planted in VIOLATIONS.values() for violation in planted):
        plant(folder, module, code)
    said = lint_imports(folder)[1].partition("Broken contracts")[2]
    parts = re.split(r"^(.+)\n-+\n", said, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_planted_import_is_seen_by_its_contract(broken, contract):
    for _, _, shown in VIOLATIONS[contract]:
        assert f"{shown} (" in broken[contract]


HEAVY = {"tensorflow", "keras", "openvino", "sklearn", "prefect", "distributed", "h5py", "pyarrow"}
LIGHT = ("flows.cli.app", "flows.onboarding.story", "flows.requests", "flows.api", "headstart")


def find_file(root, name):
    place = root.joinpath(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imported(body):
    """The names that a module imports when it is imported itself: not in functions, not for types alone."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def heavy_chains(root, start):
    """What importing a module loads that is heavy: heavy name -> the modules that lead to it."""
    chains, found = {start: (start,)}, {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if (file := find_file(root, name)) is None:
            continue
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        for other in (*parents, *imported(ast.parse(file.read_text()).body)):
            if other.partition(".")[0] in HEAVY:
                found[other.partition(".")[0]] = (*chains[name], other)
            elif other not in chains:
                chains[other] = (*chains[name], other)
                waiting.append(other)
    return found


@pytest.mark.parametrize("start", LIGHT)
def test_what_must_start_at_once_reaches_nothing_heavy(start):
    assert heavy_chains(ROOT, start) == {}


def test_a_heavy_import_that_a_light_module_reaches_is_seen(tmp_path):
    folder = copy_packages(tmp_path)
    plant(folder, "pipeline/backbones/table.py", "if True:\n    import keras.layers")
    plant(folder, "flows/onboarding/story.py", "from pipeline.engine.openvino_engine import Engine")
    plant(folder, "flows/requests.py", "def late():\n    import prefect")
    plant(folder, "flows/requests.py", "class Late:\n    from sklearn import svm")
    found = heavy_chains(folder, "flows.onboarding.story")
    assert set(found) == {"keras", "openvino", "sklearn"}
    assert set(heavy_chains(folder, "flows.requests")) == {"keras", "sklearn"}
    assert found["openvino"][:2] == ("flows.onboarding.story", "pipeline.engine.openvino_engine")


# what ruff finds in a light room, and in a module that does not print
LINES = [
    ("pipeline/decision/plan.py", "import tensorflow", "TID253"),
    ("pipeline/dataset/manifest.py", "from sklearn.metrics import f1_score", "TID253"),
    ("storage/datasets/manifests.py", "import h5py", "TID253"),
    ("flows/cli/app.py", "import prefect", "TID253"),
    ("flows/onboarding/story.py", "import pyarrow.parquet", "TID253"),
    ("pipeline/decision/plan.py", "print(1)", "T201"),
    ("storage/features/catalog.py", "print(1)", "T201"),
    ("flows/onboarding/story.py", "print(1)", "T201"),
]


def test_every_planted_line_is_found_by_ruff_and_what_is_allowed_is_not(tmp_path):
    folder = copy_packages(tmp_path)
    plant(folder, "flows/onboarding/story.py", "def late():\n    import tensorflow")
    plant(folder, "pipeline/backbones/networks.py", "import tensorflow")
    assert ruff(folder, *PACKAGES) == set()
    for module, code, _ in LINES:
        plant(folder, module, code)
    assert ruff(folder, *PACKAGES) == {(module, rule) for module, _, rule in LINES}


def count_lines():
    return {name: len((ROOT / name).read_text().splitlines()) for name in MODULES}


def test_no_module_is_longer_than_it_can_be_read():
    assert {name: lines for name, lines in count_lines().items() if lines > MAX_LINES} == {}


def test_most_modules_are_read_in_a_minute():
    assert statistics.median(lines for name, lines in count_lines().items() if not name.endswith("__init__.py")) < 200


def test_a_package_holds_nothing_but_what_it_says_about_itself():
    # flows sets what Prefect reads on import, before any module there can import it
    packages = [name for name in MODULES if name.endswith("__init__.py") and name != "flows/__init__.py"]
    assert [name for name in packages if len(ast.parse((ROOT / name).read_text()).body) != 1] == []


def test_no_module_has_a_name_that_says_nothing():
    vague = [name for name in MODULES if VAGUE & set(re.split(r"[/_.]", name))]
    assert vague == []


def test_every_module_says_what_it_is_for():
    silent = [name for name in MODULES if not ast.get_docstring(ast.parse((ROOT / name).read_text()))]
    assert silent == []


def test_only_the_settings_read_the_environment():
    # flows sets what Prefect reads on import, quiet_keras what TensorFlow does
    allowed = {"flows/settings.py", "flows/__init__.py", "pipeline/quiet_keras.py"}
    readers = {name for name in MODULES if re.search(r"os\.(environ|getenv)", (ROOT / name).read_text())}
    assert readers <= allowed


MAX_PARAMETERS = 7
A_DOCUMENT = r"\b(dict|Mapping|MutableMapping)\[str, (Any|object)\]"

# where JSON is read and written: documents on disk, documents that are printed, forms of the service
RIM = {
    "flows/documents.py",
    "flows/forms.py",
    "pipeline/jsonable.py",
    "pipeline/report/record.py",
    "storage/datasets/manifests.py",
    "storage/datasets/registrations.py",
    "storage/disk/documents.py",
    "storage/jobs/folder.py",
    "storage/measurements.py",
    "storage/predictions/ledger.py",
}
TO_AND_FROM = {"to_json", "from_json"}  # of a value, wherever it is
EXCEPTIONS = {
    "flows/api/verbs.py:_parsed",  # the keyword arguments of a person
    "flows/maintenance/listing.py:show_model",  # a stored record, as it is printed
    "flows/requests.py:to_remember",  # the document that `refresh` reads
    "pipeline/backbones/networks.py:tap_outputs",  # Keras tensors by name
    "pipeline/types.py:descriptor",  # the stored identity of a space
    "storage/models/serving.py:promote",  # a comparison, as it is stored
    "storage/models/versions.py:read_record",  # a stored record, whatever version wrote it
}
MAX_EXCEPTIONS = 10
GIVEN_NAMES = {"pipeline/backbones/torch_checkpoint.py:find_class"}  # by pickle.Unpickler


def test_no_comment_is_a_banner_over_a_part_that_could_be_a_module():
    found = [name for name in MODULES for _ in re.findall(r"^\s*# ?(?:──|--|==)", (ROOT / name).read_text(), re.M)]
    assert found == []


@functools.cache
def functions():
    """(module, function, names that stand for a document in that module) of all functions."""
    trees = {name: ast.parse((ROOT / name).read_text()) for name in MODULES}
    aliases = {
        name: {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign) and re.search(A_DOCUMENT, ast.unparse(node.value))
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for name, tree in trees.items()
    }
    found = []
    for name, tree in trees.items():
        taken = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
            if alias.name in aliases.get(f"{node.module.replace('.', '/')}.py", ())
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((name, node, aliases[name] | taken))
    return found


def parameters(function):
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [*named, *(each for each in (given.vararg, given.kwarg) if each)]


def handles_documents(function, aliases):
    annotations = [each.annotation for each in parameters(function)] + [function.returns]
    text = " ".join(ast.unparse(each) for each in annotations if each)
    return bool(re.search("|".join((A_DOCUMENT, *(rf"\b{alias}\b" for alias in sorted(aliases)))), text))


def test_values_are_handed_around_and_documents_only_at_the_rim():
    found = {
        f"{name}:{function.name}"
        for name, function, aliases in functions()
        if name not in RIM and function.name not in TO_AND_FROM and handles_documents(function, aliases)
    }
    assert found - EXCEPTIONS == set()


def test_no_function_takes_more_than_a_reader_can_hold():
    found = {
        f"{name}:{function.name}"
        for name, function, _ in functions()
        if len([each for each in parameters(function) if each.arg not in ("self", "cls")]) > MAX_PARAMETERS
    }
    assert found - EXCEPTIONS == set()


def test_the_exceptions_are_few_and_are_there():
    assert len(EXCEPTIONS) <= MAX_EXCEPTIONS
    assert EXCEPTIONS - {f"{name}:{function.name}" for name, function, _ in functions()} == set()


def test_what_finds_may_find_nothing_and_what_gets_always_gets():
    returned = {f"{name}:{function.name}": ast.unparse(function.returns) for name, function, _ in functions()}
    wrong = {
        name
        for name, annotation in returned.items()
        if (":find_" in name and not may_be_nothing(annotation)) or (":get_" in name and "None" in annotation)
    }
    assert wrong - GIVEN_NAMES == set()


def may_be_nothing(annotation):
    """None, or a collection that may be empty."""
    return "None" in annotation or bool(re.match(r"(list|dict|set|frozenset|tuple|Iterator|Sequence)\[", annotation))


def test_only_one_module_locks():
    named = re.compile(r"\bfcntl\b|\.flock\b")
    assert [name for name in MODULES if named.search((ROOT / name).read_text())] == ["storage/disk/locks.py"]


def tracked_files():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_place_on_somebodys_machine():
    places = [r"(?<![\w.~])/(?:home|Users)/(?!headstart\b)\w", r"[A-Z]:\\+Users\\"]
    places += [re.escape(str(place)) + r"\b" for place in (ROOT, ROOT.parent / "shared") if len(place.parts) > 2]
    pattern = re.compile("|".join(places).encode())
    found = {path.name: pattern.search(path.read_bytes()) for path in tracked_files()}
    assert {name: match.group() for name, match in found.items() if match} == {}


def test_no_tracked_file_is_large_or_made_by_a_tool():
    odd = [
        path.name
        for path in tracked_files()
        if path.stat().st_size > 500_000 or path.suffix in (".pyc", ".keras", ".log") or "__pycache__" in path.parts
    ]
    assert odd == []
