"""Every console and Python block of the pages is run, page by page, at a desk with real files.

docs/operations.md has a test of its own. What would install or start something here is held against what it names.
"""

import re
import shlex
import tomllib

import pytest
from typer.testing import CliRunner

from tests import factories
from tests.conftest import ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.name not in ("operations.md", "commands.md")
}
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def hold_target(words):
    """A target of make exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])


def hold_installation(words):
    """What pip is asked for exists."""
    assert (ROOT / words[words.index("--constraint") + 1]).is_file()
    (extras,) = re.findall(r"\.\[(.+)\]", words[-1])
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def hold_service(words):
    """A command of the service is one that the operations page has, all of whose commands are run."""
    assert " ".join(words[:3]) in OPERATIONS


HELD = {
    r"make ": hold_target,
    r"pip install ": hold_installation,
    r"set -a|prefect |headstart (deploy|doctor)": hold_service,
    # half a minute and more; tests/flows/features/test_cluster.py and tests/flows/finetuning/test_audit.py run them
    r".* --runner dask|headstart audit ": lambda words: None,
}


def blocks_of(page):
    return BLOCK.findall(PAGES[page])


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """A folder with everything that the pages name: pictures, tables, an inbox; and a workspace of its own."""
    desk = tmp_path_factory.mktemp("desk")
    shapes = factories.write_dataset(desk / "pictures")
    for folder, name in zip(sorted(shapes.iterdir()), ("daisy", "rose", "tulip"), strict=True):
        folder.rename(folder.with_name(name))
    found = sorted((desk / "pictures").glob("*/*"))
    for place in ("new", "inbox"):
        (desk / place).mkdir()
    for number in range(1, 6):
        factories.write_photo(desk / "new" / f"{number}.jpg", 100 + number)
        factories.write_photo(desk / "inbox" / f"{number}.jpg", 200 + number)
    rows = [f"{path.relative_to(desk)},{path.parent.name}" for path in found]
    (desk / "garden.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    rows = [f"{row}{'|yellow' if number % 2 else ''}" for number, row in enumerate(rows)]
    (desk / "tags.csv").write_text("\n".join(["path,labels", *rows]) + "\n")
    factories.age(desk)
    return desk


@pytest.fixture
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HEADSTART_HOME", str(desk / "workspace"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return desk


@pytest.mark.heavy
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_every_block_of_a_page_is_run(page, at_the_desk):
    if page != "README.md":  # which is what the others follow
        onboard_once(at_the_desk)
    for kind, text in blocks_of(page):
        if kind == "python":
            run_python(text, at_the_desk)
            continue
        for line in text.splitlines():
            assert line.startswith("$ "), line
            run_command(line.removeprefix("$ "), at_the_desk)


def onboard_once(desk):
    if not (desk / "workspace" / "models" / "pictures").exists():
        run_command("headstart onboard pictures", desk)


def run_command(line, desk):
    words = shlex.split(line)
    for pattern, hold in HELD.items():
        if re.match(pattern, line):
            hold(words)
            return
    from flows.cli.app import app

    assert words[0] == "headstart", line
    for path in desk.glob("pictures.h5"):
        path.unlink()  # a pack is never overwritten
    found = CliRunner().invoke(app, words[1:])
    assert found.exit_code == 0, f"{line}\n{found.output}\n{found.exception!r}"


def run_python(text, desk):
    with_top = (path.parent for path in desk.glob("workspace/spaces/*/space.json") if '"top"' in path.read_text())
    shards = (shard for space in with_top for shard in space.glob("??/*.h5"))
    text = text.replace("spaces/<space>/<aa>/<sha256>.h5", str(next(shards, "")))
    exec(compile(text, "a page", "exec"), {"__name__": "a page"})


def test_the_pages_that_have_blocks_are_found():
    assert {"README.md", "docs/tutorial.md", "docs/guides/notebook.md"} <= {page for page in PAGES if blocks_of(page)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_between_pages_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, "docs/operations.md"])
def test_a_page_is_in_the_navigation_and_the_readme_is_of_one_screen(page):
    if page == "README.md":
        assert len(PAGES[page].split()) <= 900
        assert "```console" in "\n".join(PAGES[page].splitlines()[:25])
    else:
        assert page.removeprefix("docs/") in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
