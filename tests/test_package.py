"""What is installed works from its wheel alone, whatever lies beside it."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return SimpleNamespace(code=done.returncode, said=done.stdout + done.stderr)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with this one's libraries, and with headstart from its wheel: `wheel`, `python`, `headstart`."""
    folder = tmp_path_factory.mktemp("package")
    built = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    assert built.code == 0, built.said
    (wheel,) = folder.glob("*.whl")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder).code == 0
    python = folder / "env" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    done = run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    assert done.code == 0, done.said
    # only now: pip would find this environment's headstart and do nothing. An editable one is not seen by Python,
    # which reads no .pth file there
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return SimpleNamespace(wheel=wheel, python=python, headstart=python.with_name("headstart"))


@pytest.fixture
def crowded(tmp_path):
    """A folder that holds a file or a package of each of our names, which says so when it is imported."""
    for name in ("storage.py", "flows.py", "pipeline/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('a stranger was imported')\n")
    return tmp_path


def test_the_wheel_holds_the_packages_and_what_they_read_and_nothing_else(installed):
    names = zipfile.ZipFile(installed.wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"pipeline", "storage", "flows", "headstart.py"}
    assert {"flows/prefect.yaml", "pipeline/decision/thresholds.json"} <= set(names)
    wanted = {
        path.relative_to(ROOT).as_posix()
        for top in ("pipeline", "storage", "flows")
        for path in (ROOT / top).rglob("*.*")
        if "__pycache__" not in path.parts
    }
    assert wanted <= set(names)


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["onboard", "--help"]])
def test_the_command_runs_beside_files_of_the_same_names(installed, crowded, arguments):
    done = run(installed.headstart, *arguments, cwd=crowded)
    assert done.code == 0, done.said
    assert "stranger" not in done.said


def test_the_command_that_runs_is_the_installed_one(installed, crowded):
    done = run(installed.python, "-P", "-c", "import flows; print(flows.__file__)", cwd=crowded)
    assert done.said.startswith(str(installed.python.parent.parent))


def test_the_python_interface_is_imported_beside_files_of_the_same_names(installed, crowded):
    safe = run(installed.python, "-P", "-c", "import headstart; print(headstart.__all__)", cwd=crowded)
    assert safe.code == 0, safe.said
    assert "BottleneckFeatures" in safe.said


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        ("flows.py", "Python found something else of the name 'flows' than headstart's own package"),
        (
            "storage.py",
            "storage.py instead of headstart's own package 'storage'. Rename it, or run from another folder",
        ),
        ("pipeline/__init__.py", "instead of headstart's own package 'pipeline'. Rename it"),
    ],
)
def test_a_strangers_file_that_python_finds_first_is_named(installed, tmp_path, stranger, reason):
    (tmp_path / stranger).parent.mkdir(exist_ok=True)
    (tmp_path / stranger).write_text("")
    done = run(installed.python, "-c", "import headstart", cwd=tmp_path)  # Python looks beside the script first
    assert done.code == 1
    assert reason in done.said.splitlines()[-1]
