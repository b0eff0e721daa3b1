"""What the documents promise is so."""

import re
from pathlib import Path

import numpy as np
import pytest

from flows.cli.app import app
from pipeline.types import FeatureBlock
from storage.features.store import FeatureStore
from storage.workspace import Workspace
from tests import factories

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    *(command.name or command.callback.__name__ for command in app.registered_commands),
    *(group.name for group in app.registered_groups),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme_and_has_help(name, headstart):
    assert re.search(rf"^\$ headstart {name}\b", README, re.MULTILINE)
    assert headstart(name, "--help").code == 0


def test_the_modules_and_make_targets_that_documents_name_exist():
    documents = README + (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for module in re.findall(r"\b(?:pipeline|storage|flows)(?:\.[a-z_]+)+\b", documents):
        place = ROOT / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module
    for target in re.findall(r"`make ([a-z]+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_reads_a_shard_with_plain_h5py(tmp_path, monkeypatch):
    space = factories.a_space()
    block = FeatureBlock((bytes(32),), {tap.name: np.ones((1, tap.dim), np.float32) for tap in space.taps})
    with FeatureStore(Workspace.open(tmp_path), space) as store:
        store.append(block)
    (shard,) = tmp_path.glob("spaces/*/??/*.h5")
    (example,) = re.findall(r"```python\n(import h5py.*?)```", README, re.DOTALL)
    example = example.replace("spaces/<space>/<aa>/<sha256>.h5", str(shard)).replace("top", space.taps[-1].name)

    found: dict[str, np.ndarray] = {}
    exec(example, found)

    assert found["keys"].tobytes() == block.digests[0]
    assert found[space.taps[-1].name].shape == (1, space.taps[-1].dim)
