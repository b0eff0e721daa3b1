"""The Python interface on real pictures: the digits that scikit-learn ships."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import headstart
from flows.onboarding.refresh import refresh
from flows.requests import RefreshRequest

pytestmark = pytest.mark.heavy

PER_CLASS = 30


@pytest.fixture(scope="module")
def desk(tmp_path_factory, first_run):
    """A folder with `pictures` (digits 0 to 3), an `inbox` of others, and a workspace with the compiled network."""
    from pipeline.images.digits import digit_pictures

    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(first_run.workspace / "engines", desk / "workspace" / "engines")
    (desk / "inbox").mkdir()
    for name, picture in digit_pictures():
        digit = Path(name).parent.name
        folder = desk / "pictures" / digit
        if digit not in "0123" or len(list((desk / "inbox").iterdir())) == 12:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        is_full = len(list(folder.iterdir())) == PER_CLASS
        target = desk / "inbox" / f"{digit}-{Path(name).name}.jpg" if is_full else folder / Path(name).name
        target.write_bytes(picture)
    return desk


@pytest.fixture(autouse=True)
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HEADSTART_HOME", str(desk / "workspace"))


@pytest.fixture(scope="module")
def model(desk):
    return headstart.onboard(desk / "pictures", name="digits", workspace=desk / "workspace", progress=False)


def test_the_example_of_the_documentation_does_what_it_says(model):
    plan = headstart.plan("pictures")
    assert (plan.case, plan.strategy) == (2, "head-on-evidence")
    assert "Different" in plan.reasons[0]

    again = headstart.onboard("pictures", name="digits")
    assert (again.name, again.version) == ("digits", model.version)  # found, not made again
    assert again.metrics.accuracy > 0.9
    low, high = again.metrics.accuracy_interval
    assert low <= again.metrics.accuracy <= high

    inbox = pd.DataFrame(again.predict(sorted(Path("inbox").glob("*.jpg")), top=1))
    assert list(inbox.columns) == ["path", "label", "probability", "top", "labels", "error"]
    right = inbox.label == inbox.path.map(lambda path: Path(path).name[0])
    assert (len(inbox), right.mean() > 0.8) == (12, True)
    assert inbox.probability.between(0, 1).all()

    train = headstart.features("pictures", taps=["top"], split="train")
    assert (train.X.shape, train.X.dtype) == ((len(train.y), 1280), np.float32)
    assert {train.classes[label] for label in train.y} == {"0", "1", "2", "3"}
    assert all(Path(path).is_file() for path in train.paths)
    assert set(train.splits) == {"train"}
    test = headstart.features("pictures", taps=["top"], split="test")
    assert LogisticRegression(max_iter=1000).fit(train.X, train.y).score(test.X, test.y) > 0.8


def test_a_model_is_found_by_name_version_or_folder_and_listed(model):
    for named in ("digits", "digits@1", model.path):
        assert (headstart.load(named).version, headstart.load(named).classes) == (1, ("0", "1", "2", "3"))
    assert ("digits", 1) in [(found.name, found.version) for found in headstart.models()]
    with pytest.raises(FileNotFoundError, match="digits"):
        headstart.load("digit")


def test_a_notebook_shows_the_report_and_the_quadrant(model):
    assert model._repr_markdown_() == (model.path / "report.md").read_text()
    assert "digits@1" in model.report
    shown = model.plan._repr_markdown_()
    assert "**● 2:" in shown
    assert all(reason.split(".")[0][:30] in shown for reason in model.plan.reasons[:2])
    assert repr(model) == "Model(digits@1, 4 classes, case 2)"


def test_a_file_that_is_no_picture_has_its_error(model):
    Path("notes.jpg").write_text("no picture")
    (row,) = model.predict("notes.jpg")
    assert (row.label, row.probability, row.top) == (None, None, ())
    assert row.error.startswith("not a picture")
    with pytest.raises(ValueError, match="at least one picture"):
        model.predict([])


def test_what_a_person_chooses_is_kept_with_their_name():
    plan = headstart.plan("pictures", case=3)
    assert plan.case == 3
    assert plan.changes[0].by
    assert headstart.plan("pictures").case == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bakbone": "resnet50"}, "bakbone"),
        ({"size": 50}, "50"),
        ({"case": 5}, "case=5"),
        ({"backbone": "resnet5"}, "Did you mean 'resnet50'"),
    ],
)
def test_an_option_that_cannot_be_used_is_an_error_before_anything_is_read(options, reason):
    with pytest.raises(headstart.UsageError) as caught:
        headstart.plan("pictures", **options)
    assert reason in str(caught.value)


def test_data_that_are_not_there_are_the_error_that_python_knows():
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        headstart.onboard("nowhere")


def test_rows_from_python_are_a_dataset_like_any_other_and_refresh_leaves_them_alone(desk):
    frame = pd.DataFrame({"path": map(str, sorted(Path("pictures").glob("*/*"))), "keep": 1})
    frame["label"] = frame.path.map(lambda path: "even" if int(Path(path).parent.name) % 2 == 0 else "odd")
    model = headstart.onboard(frame, name="parity", progress=False)
    assert model.classes == ("even", "odd")
    assert model.record.features.num_computed == 0  # the pictures are those of the folder
    pairs = list(zip(frame.path, frame.label, strict=True))
    assert headstart.onboard(pairs, name="parity", progress=False).version == model.version

    result = refresh(RefreshRequest(workspace=str(desk / "workspace"), names=("parity",)))
    (row,) = result.datasets
    assert not row.retrained
    assert "named in Python" in " ".join(row.reasons)


def test_a_version_can_be_chosen_by_hand(desk):
    first = headstart.onboard("pictures", name="chosen", progress=False)
    second = headstart.onboard("pictures", name="chosen", strategy="head-on-top", progress=False)
    assert (first.version, second.version) == (1, 2)
    for model in (first, second):
        model.promote()
        assert headstart.load("chosen").version == model.version


def test_fine_tuning_gives_the_new_version_or_says_why_the_head_stays(place, tiny_network, monkeypatch):
    monkeypatch.setenv("HEADSTART_HOME", str(place))
    head = headstart.load("shapes")
    assert head.gate is None
    found = head.finetune(epochs=1)
    assert found.gate.passed == (found.version != head.version)
    assert "standard error" in found.gate.reason
