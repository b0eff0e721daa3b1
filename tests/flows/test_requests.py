"""Requests: what they accept, the form that Prefect makes of them, and what they become for another process."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from flows.forms import parse_request
from flows.requests import (
    MAX_VIEWS,
    SECONDS,
    SPAN,
    AuditRequest,
    ExtractRequest,
    FinetuneRequest,
    GcRequest,
    OnboardRequest,
    PredictBatchRequest,
    PredictRequest,
    RefreshRequest,
    ScheduledGcRequest,
    VerifyRequest,
    parse_seconds,
)
from pipeline.backbones.table import AUTO, DEFAULT_BACKBONE
from pipeline.decision.plan import Wishes
from pipeline.errors import UsageError
from storage.maintenance.garbage import Limits
from tests.conftest import ROOT

SMALLEST = {  # of each kind, what must be given
    OnboardRequest: {"folder": "/pets"},
    ExtractRequest: {"folder": "/pets"},
    FinetuneRequest: {"name": "pets"},
    AuditRequest: {"name": "pets"},
    RefreshRequest: {},
    PredictRequest: {"model": "pets", "paths": ["/new"]},
    PredictBatchRequest: {"model": "pets", "folder": "/in", "output": "/out.csv"},
    VerifyRequest: {},
    GcRequest: {},
    ScheduledGcRequest: {},
}


def form_of(kind):
    return TypeAdapter(kind).json_schema()


# What a person gives.


@pytest.mark.parametrize("kind", SMALLEST, ids=lambda kind: kind.__name__)
def test_every_field_of_a_request_has_a_title_and_a_sentence(kind):
    for name, field in kind.__pydantic_fields__.items():
        assert field.title, name
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        (OnboardRequest, {"folder": ""}, "folder='' cannot be used: it is empty text"),
        (OnboardRequest, {"folder": 5}, "folder=5 cannot be used: it should be a path"),
        (OnboardRequest, {"workspace": " "}, "workspace's name is empty"),
        (OnboardRequest, {"name": "My Pets"}, "for example 'my-pets'"),
        (OnboardRequest, {"views": MAX_VIEWS + 1}, f"views={MAX_VIEWS + 1} cannot be used: .* {MAX_VIEWS}"),
        (OnboardRequest, {"vews": 1}, "vews=1 cannot be used: Unexpected"),
        (FinetuneRequest, {"layer_decay": 0.05}, "layer_decay=0.05"),
        (GcRequest, {"max_size": "much"}, r"'much' is not a size such as 20GB or 500MB\. Units: B, KB, MB, GB, TB"),
        *((GcRequest, {"older_than": text}, r"such as 30d or 36h\. Units: s, m, h, d, w") for text in ("", "30", "d")),
        *((GcRequest, {"grace": text}, "such as 30d or 36h") for text in ("-1d", "30 days", "1e3d", "nand", "soon")),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(kind, changed, said):
    with pytest.raises(UsageError, match=said):
        parse_request(kind, {**SMALLEST[kind], **changed})


def test_a_field_that_is_missing_is_named():
    with pytest.raises(UsageError, match="folder"):
        parse_request(OnboardRequest, {})


def test_the_workspace_is_looked_up_when_the_request_is_made(monkeypatch):
    for place in ("/first", "/second"):
        monkeypatch.setenv("HEADSTART_HOME", place)
        assert OnboardRequest("pets").workspace == RefreshRequest().workspace == place
    assert OnboardRequest("pets", "/given").workspace == "/given"


def test_spans_and_sizes_are_read_with_their_units():
    asked = GcRequest(older_than="30d", max_size="1.5 GB", grace="36H")
    assert asked.limits() == Limits(36 * 3600, 30 * 86_400, 1_500_000_000)
    assert GcRequest(max_size="20gb", grace=" 90m ").limits() == Limits(5400, 0, 20 * 10**9)
    assert [parse_seconds(f"2{unit}") for unit in "smhdw"] == [2, 120, 7200, 172_800, 1_209_600]
    assert all(re.fullmatch(SPAN, f"1.5 {unit}") for unit in SECONDS)


def test_wishes_are_those_of_the_person_who_asks():
    assert OnboardRequest("pets", case=2, by="eve").wishes() == Wishes(2, None, "eve")
    assert OnboardRequest("pets").wishes() == Wishes()


# What Prefect shows and checks.


@pytest.mark.parametrize(
    ("kind", "cards"),
    [(OnboardRequest, ["Features", "Decision"]), (ExtractRequest, ["Features"]), (FinetuneRequest, ["Training"])],
)
def test_options_are_on_cards_and_the_workspace_comes_last(kind, cards):
    form = form_of(kind)
    shown = form["properties"]
    on_cards = [shown[card]["properties"] for card in kind.CARDS]
    assert [shown[card]["title"] for card in kind.CARDS] == cards
    assert list(shown)[-1] == "workspace"
    assert {name for card in on_cards for name in card} | shown.keys() - kind.CARDS.keys() == {
        field.name for field in fields(kind)
    }
    for card in kind.CARDS:
        assert shown[card]["default"] == {name: field["default"] for name, field in shown[card]["properties"].items()}
        assert shown[card]["additionalProperties"] is False
    assert form["additionalProperties"] is False


def test_what_may_be_left_open_is_one_list_to_choose_from():
    decision = form_of(OnboardRequest)["properties"]["decision"]["properties"]
    assert decision["case"]["enum"] == [None, 1, 2, 3, 4]
    assert decision["strategy"]["enum"] == [
        None,
        "head-on-top",
        "head-on-evidence",
        "fine-tune",
        "fine-tune-or-scratch",
    ]
    assert not any("anyOf" in field for field in decision.values())
    backbone = form_of(OnboardRequest)["properties"]["features"]["properties"]["backbone"]
    assert {DEFAULT_BACKBONE, AUTO, "resnet50"} <= set(backbone["enum"])


def test_the_command_and_the_form_of_gc_remove_the_same_by_default():
    shown = form_of(GcRequest)["properties"]
    asked = GcRequest()
    assert (
        (shown["older_than"]["default"], shown["grace"]["default"]) == (asked.older_than, asked.grace) == ("0d", "24h")
    )
    assert (asked.delete, asked.max_size, asked.keep_versions) == (False, None, None)


@pytest.mark.prefect
@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (OnboardRequest, {"folder": ""}),
        (OnboardRequest, {"name": "Bad Name!"}),
        (OnboardRequest, {"decision": {"case": 5}}),
        (OnboardRequest, {"decision": {"strategy": "hope"}}),
        (OnboardRequest, {"features": {"size": 100}}),
        (OnboardRequest, {"features": {"size": 32}}),
        (OnboardRequest, {"features": {"views": MAX_VIEWS + 1}}),
        (OnboardRequest, {"features": {"backbone": "nope"}}),
        (OnboardRequest, {"features": {"vews": 1}}),
        (OnboardRequest, {"vews": 1}),
        (FinetuneRequest, {"name": "../pets"}),
        (FinetuneRequest, {"schedule": {"epochs": 0}}),
        (PredictBatchRequest, {"output": "/out.xlsx"}),
        (PredictBatchRequest, {"model": "../pets"}),
        (PredictBatchRequest, {"top": 0}),
        (GcRequest, {"older_than": "a month"}),
        (GcRequest, {"max_size": "20"}),
        (VerifyRequest, {"recompute": -1}),
    ],
)
def test_the_form_itself_refuses_what_cannot_be(kind, changed):
    """So that no run is made: a server checks the schema, not the validators in Python."""
    from prefect.utilities.schema_tools.validation import validate

    validate(SMALLEST[kind], form_of(kind), raise_on_error=True)
    with pytest.raises(Exception, match=r"Validation failed|is not|should be|does not match|Additional|non-empty|less"):
        validate({**SMALLEST[kind], **changed}, form_of(kind), raise_on_error=True)


@pytest.mark.prefect
@pytest.mark.parametrize("unit", SECONDS)
def test_the_form_takes_every_unit_that_the_command_takes(unit):
    from prefect.utilities.schema_tools.validation import validate

    validate({"older_than": f"4{unit}", "max_size": "1.5 GB"}, form_of(GcRequest), raise_on_error=True)
    assert GcRequest(older_than=f"4{unit}").limits().older_than_seconds == 4 * SECONDS[unit]


# For another process.


def everything(kind, folder):
    """A request of which no field has its default."""
    weights = folder / "weights.h5"
    weights.touch()
    changed = {
        OnboardRequest: {
            "folder": "in",
            "name": "pets",
            "backbone": "resnet50",
            "auto_minutes": 3.0,
            "weights": "weights.h5",
            "recipe": "scaled",
            "size": 96,
            "views": 2,
            "rehash": True,
            "case": 2,
            "strategy": "fine-tune",
            "by": "eve",
        },
        FinetuneRequest: {"name": "pets", "epochs": 3, "layer_decay": 0.5, "unfreeze_epochs": 1.0},
        RefreshRequest: {"names": ("pets",), "force": True},
        PredictBatchRequest: {"model": "pets@2", "folder": "in", "output": "out.csv", "top": 5, "every": True},
    }
    return kind(**changed[kind], workspace="store")


@pytest.mark.prefect
@pytest.mark.parametrize("kind", [OnboardRequest, FinetuneRequest, RefreshRequest, PredictBatchRequest])
def test_a_form_that_a_request_filled_in_is_accepted_and_gives_that_request_with_absolute_paths(
    kind, tmp_path, monkeypatch
):
    from prefect.utilities.schema_tools.validation import validate

    monkeypatch.chdir(tmp_path)
    asked = everything(kind, tmp_path)
    form = asked.to_form()
    validate(form, form_of(kind), raise_on_error=True)
    found = parse_request(kind, form)
    paths = [name for name in ("folder", "output", "weights", "workspace") if hasattr(asked, name)]
    for field in fields(kind):
        given = getattr(asked, field.name)
        assert getattr(found, field.name) == (str(tmp_path / given) if field.name in paths else given)


def test_a_path_may_be_an_object_and_its_bytes_need_not_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = Path(os.fsdecode(b"caf\xe9"))
    asked = OnboardRequest(given, tmp_path, weights=given)
    assert (asked.folder, asked.weights, asked.workspace) == (str(given), str(given), str(tmp_path))
    assert asked.to_remember()["folder"] == str(tmp_path / given)


def test_weights_that_are_a_word_stay_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert OnboardRequest("in", "store", weights="imagenet").anywhere().weights == "imagenet"
    assert OnboardRequest("in", "store").anywhere().weights is None


def test_what_is_remembered_of_a_dataset_can_be_asked_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = everything(OnboardRequest, tmp_path)
    kept = asked.to_remember()
    assert not kept.keys() & {"workspace", "name", "rehash"}
    monkeypatch.chdir("/")
    again = parse_request(OnboardRequest, {**kept, "workspace": str(tmp_path / "store"), "name": "pets"})
    assert again.folder == str(tmp_path / "in")
    assert again.weights == str(tmp_path / "weights.h5")
    assert (again.views, again.case, again.strategy, again.by) == (2, 2, "fine-tune", "eve")


def test_runs_that_were_scheduled_before_are_understood():
    """Parameters as the forms of version 0.1.0 wrote them."""
    before = {
        "folder": "/pictures/pets",
        "name": None,
        "features": {
            "backbone": "efficientnet_lite0",
            "weights": None,
            "recipe": "exact",
            "size": None,
            "views": 2,
            "auto_minutes": 2.0,
        },
        "decision": {"case": None, "strategy": "fine-tune", "by": ""},
        "rehash": False,
        "workspace": None,
    }
    assert parse_request(OnboardRequest, before) == OnboardRequest("/pictures/pets", views=2, strategy="fine-tune")
    assert parse_request(GcRequest, {"delete": True, "older_than": "30d"}) == GcRequest(delete=True, older_than="30d")
    assert parse_request(VerifyRequest, {"recompute": 100}) == VerifyRequest(recompute=100)


def test_a_request_can_be_made_first_where_its_words_mean_something_else():
    """Validators are built at the first use, in a process of its own here."""
    code = (
        "from pathlib import Path; from storage.workspace import Workspace; from pipeline.types import Image as Folder;"
        "from flows.requests import GcRequest, OnboardRequest, VerifyRequest;"
        "print(VerifyRequest('/w').workspace, GcRequest('/w').workspace, OnboardRequest('/pets', '/w').folder)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["/w", "/w", "/pets"], said.stderr
