"""The rules of the layout, and the proof that breaking one of them is noticed."""

import ast
import re
import shutil
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


@pytest.fixture
def planted(tmp_path):
    """A copy of the three packages; `planted(module, code)` adds code at the end of a module of it."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def plant(module, code):
        with (tmp_path / module).open("a") as file:
            file.write(f"\n\n{code}\n")
        return tmp_path

    return plant


# ── who may import whom ──────────────────────────────────────────────────────────────────────────


def test_every_import_contract_is_kept():
    assert lint_imports(ROOT)[0] == set()


@pytest.mark.parametrize(
    ("module", "code", "contract"),
    [
        ("pipeline/decision/plan.py", "import storage.workspace", "flows -> storage -> pipeline, never back"),
        ("storage/models/versions.py", "import flows.settings", "flows -> storage -> pipeline, never back"),
        ("pipeline/decision/plan.py", "def late():\n    import prefect", "only flows knows Prefect and the terminal"),
        ("storage/models/versions.py", "import rich", "only flows knows Prefect and the terminal"),
        ("storage/features/shards.py", "import keras", "storage keeps bytes, it does not run models"),
        (
            "storage/features/shards.py",
            "def late():\n    import PIL.Image",
            "storage keeps bytes, it does not run models",
        ),
        ("pipeline/engine/extract.py", "import h5py", "only storage opens HDF5 and SQLite"),
        ("flows/maintenance/listing.py", "import sqlite3", "only storage opens HDF5 and SQLite"),
        ("flows/onboarding/story.py", "import numpy", "flows touches no arrays"),
        ("flows/onboarding/story.py", "def late():\n    from tensorflow import io", "flows touches no arrays"),
        (
            "storage/models/versions.py",
            "from pipeline.decision.plan import plan_case",
            "storage knows pipeline's nouns, not its verbs",
        ),
        (
            "storage/models/versions.py",
            "import pipeline.images.decode",
            "storage knows pipeline's nouns, not its verbs",
        ),
        ("pipeline/types.py", "def late():\n    import pipeline.decision.plan", "pipeline's rooms, top to bottom"),
        ("pipeline/images/decode.py", "from pipeline import engine", "pipeline's rooms, top to bottom"),
        ("storage/disk/hashes.py", "import storage.features.store", "storage's rooms, top to bottom"),
        ("flows/onboarding/story.py", "import flows.service.submit", "flows' rooms, top to bottom"),
        ("pipeline/heads/ridge.py", "import pipeline.heads.fit", "no circle of files"),
    ],
    ids=lambda value: value.replace("\n   ", "") if value not in CONTRACTS else "",
)
def test_a_planted_import_breaks_its_contract(planted, module, code, contract):
    broken, said = lint_imports(planted(module, code))
    assert contract in broken, said


def test_every_contract_has_a_planted_violation():
    (mark,) = (mark for mark in test_a_planted_import_breaks_its_contract.pytestmark if mark.name == "parametrize")
    assert {contract for _, _, contract in mark.args[1]} == set(CONTRACTS)


@pytest.mark.parametrize(
    ("module", "code", "rule"),
    [
        ("pipeline/decision/plan.py", "import tensorflow", "TID253"),
        ("pipeline/decision/plan.py", "from pipeline.backbones.networks import load_backbone", "TID253"),
        ("pipeline/dataset/manifest.py", "from sklearn.metrics import f1_score", "TID253"),
        ("storage/features/catalog.py", "import h5py", "TID253"),
        ("storage/features/store.py", "from storage.features.shards import Shard", "TID253"),
        ("flows/cli/app.py", "import prefect", "TID253"),
        ("flows/onboarding/story.py", "from pipeline.engine.openvino_engine import Engine", "TID253"),
        ("pipeline/decision/plan.py", "print(1)", "T201"),
        ("storage/features/catalog.py", "print(1)", "T201"),
        ("flows/onboarding/story.py", "print(1)", "T201"),
    ],
)
def test_a_planted_line_is_found_by_ruff(planted, module, code, rule):
    assert (module, rule) in ruff(planted(module, code), module)


def test_what_is_allowed_is_not_found_by_ruff(planted):
    planted("flows/onboarding/story.py", "def late():\n    import tensorflow")
    folder = planted("pipeline/backbones/networks.py", "import tensorflow")
    assert ruff(folder, *PACKAGES) == set()


# ── modules ──────────────────────────────────────────────────────────────────────────────────────


def test_no_module_is_longer_than_it_can_be_read():
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in MODULES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


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


# ── the repository ───────────────────────────────────────────────────────────────────────────────


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
