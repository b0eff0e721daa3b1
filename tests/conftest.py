"""What all tests share. Session fixtures hold what costs seconds: the backbone, its compiled network, a first run."""

from __future__ import annotations

import fcntl
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

from pipeline.backbones.table import get_backbone
from tests import factories

# a test is heavy, or a test of Prefect, if it needs one of these, whatever stands above it
HEAVY_FIXTURES = {"keras", "backbone", "engine_folder", "engine", "first_run", "small"}
PREFECT_FIXTURES = {"prefect_server"}
NOT_LIGHT = {"tensorflow", "openvino", "prefect"}

# an example that is slow on a busy machine is no failure
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"  # real datasets, where somebody keeps them beside the repository


# What runs in the background of a shell without job control ignores Ctrl-C, and so does all that it starts: commands of
# ours, which are interrupted here, and Prefect's workers, which stop themselves by that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark by fixture, and keep what shares fixtures in one process of `--dist loadgroup`."""
    for item in items:
        fixtures = set(item.fixturenames)
        if fixtures & HEAVY_FIXTURES:
            item.add_marker(pytest.mark.heavy)
        if fixtures & PREFECT_FIXTURES:
            item.add_marker(pytest.mark.prefect)
        file = f"{item.path.parent.name}/{item.path.stem}"
        item.add_marker(pytest.mark.xdist_group("prefect" if fixtures & PREFECT_FIXTURES else file))


def pytest_ignore_collect(collection_path, config):
    """A module of which every test is left out need not be imported: it may load Prefect or TensorFlow itself."""
    left_out = [mark for mark in ("heavy", "prefect") if f"not {mark}" in config.option.markexpr]
    if left_out and collection_path.suffix == ".py":
        marked = re.search(r"^pytestmark = (.+)", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
        if marked and any(f"pytest.mark.{mark}" in marked[1] for mark in left_out):
            return True
    return None


def is_light(item):
    return not any(item.iter_markers("heavy")) and not any(item.iter_markers("prefect"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.loaded_before = NOT_LIGHT & sys.modules.keys()
    item.config.light_item = is_light(item)


def pytest_runtest_teardown(item):
    """A test without a mark loads nothing heavy, so that the light tier stays light."""
    loaded = (NOT_LIGHT & sys.modules.keys()) - item.loaded_before
    if loaded and is_light(item):
        pytest.fail(f"a test without a mark loaded {', '.join(sorted(loaded))}: mark it heavy or prefect")


def pytest_collection_finish(session):
    loaded = NOT_LIGHT & sys.modules.keys()
    if loaded and all(map(is_light, session.items)):
        raise pytest.UsageError(f"a test module loads {', '.join(sorted(loaded))} when it is collected")


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory):
    """No test can ever touch a user's workspace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_HOME", str(tmp_path_factory.mktemp("home") / "workspace"))
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """Build a folder once for all processes of the run: `once("name", build)` is what `build(folder)` returned."""
    root = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        root = root.parent  # of this run, with a folder for each process

    def found(name, build):
        answer = root / f"{name}.pickle"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not answer.exists():
                folder = root / name
                shutil.rmtree(folder, ignore_errors=True)  # of a process whose attempt failed
                folder.mkdir()
                answer.write_bytes(pickle.dumps(build(folder)))
        return pickle.loads(answer.read_bytes())

    return found


@pytest.fixture
def workspace(tmp_path):
    """The root of a workspace that nothing was written to."""
    return tmp_path / "workspace"


@pytest.fixture
def tiny_dataset(tmp_path):
    """Write a small dataset: `tiny_dataset("name", num_classes=3, per_class=8, size=(40, 32))`."""
    return lambda name="shapes", **options: factories.write_dataset(tmp_path / name, **options)


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory):
    """Unpack an archive of the real data once: `shared_data("flowers5")` is its folder, else the test is skipped."""
    unpacked: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in unpacked:
            places = (SHARED / "data" / f"{name}.tar.xz", SHARED / "data" / f"{name}.tar", SHARED / f"{name}.tar.xz")
            archive = next((place for place in places if place.is_file()), None)
            if archive is None:
                pytest.skip(f"no archive {name} beside the repository")
            folder = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as opened:
                opened.extractall(folder, filter="fully_trusted")
            unpacked[name] = folder
        return unpacked[name]

    yield folder_of
    for folder in unpacked.values():
        shutil.rmtree(folder, ignore_errors=True)


HEAVY = ("tensorflow", "numpy", "keras", "openvino", "sklearn", "scipy", "prefect", "h5py", "PIL", "rich")

# runs the command line as the installed script does, and tells at the end what that has imported
DRIVER = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr))
from flows.cli.app import main
sys.argv[0] = "headstart"
main()
"""


@pytest.fixture(scope="session")
def headstart(pytestconfig):
    """Run the command line in a fresh process: `headstart("onboard", folder)` has code, stdout, stderr, loaded.

    `cwd` is the folder it runs in; all other keywords are environment variables.
    """

    def run(*arguments, cwd=None, **environment):
        assert all(name.isupper() for name in environment), f"not names of environment variables: {environment}"
        finished = subprocess.run(
            [sys.executable, "-c", DRIVER, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        stderr, _, loaded = finished.stderr.rpartition("loaded:")
        done = SimpleNamespace(
            code=finished.returncode, stdout=finished.stdout, stderr=stderr, loaded=set(loaded.split())
        )
        heavy = NOT_LIGHT & done.loaded
        assert not (heavy and pytestconfig.light_item), (
            f"a test without a mark loaded {heavy}: mark it heavy or prefect"
        )
        return done

    return run


@pytest.fixture(scope="session")
def keras():
    """Keras, imported as the project does it."""
    from pipeline.quiet_keras import keras

    return keras


@pytest.fixture(scope="session")
def spec():
    """The default backbone."""
    return get_backbone("efficientnet_lite0")


@pytest.fixture(scope="session")
def backbone(spec):
    """The default backbone in Keras."""
    from pipeline.backbones.networks import load_backbone

    return load_backbone(spec)


@pytest.fixture(scope="session")
def engine_folder(spec, once):
    """The default backbone as OpenVINO files."""

    def build(folder):
        from pipeline.engine.conversion import convert_backbone

        convert_backbone(spec, folder)
        return folder

    return once("engine", build)


@pytest.fixture(scope="session")
def engine(engine_folder):
    """The compiled network of all taps."""
    from pipeline.engine.files import TAPS_FILE
    from pipeline.engine.openvino_engine import Engine

    return Engine.load(engine_folder / TAPS_FILE)
