import json

import pytest

from flows.cli import render_jobs
from flows.documents import to_document
from flows.finetuning import audit as auditing
from flows.finetuning.audit import audit, get_audit_plan, list_audits
from flows.finetuning.job import get_job_plan
from flows.requests import AuditRequest, FinetuneRequest, OnboardRequest
from pipeline.errors import CancelledError, NotFoundError
from pipeline.jsonable import to_json
from storage.jobs.folder import get_job
from storage.measurements import read_measurement
from storage.models.versions import list_models
from storage.workspace import Workspace
from tests import factories

pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def look_at_every_batch(monkeypatch):
    from pipeline.finetuning import train

    monkeypatch.setattr(train, "SECONDS_BETWEEN_LOOKS", 0.0)


def a_request(place, epochs=1):
    return AuditRequest("shapes", str(place), epochs)


def test_every_strategy_is_judged_on_the_same_pictures(place, tiny_network):
    result = audit(a_request(place))
    names = [row.strategy for row in result.strategies]
    assert names == ["head-on-top", "head-on-evidence", "fine-tune", "scratch"]
    assert result.delivered in names[:2]  # these pictures are small data
    assert set(result.constant_policies) == set(names)
    assert result.compute.share_of_finetuning < 1
    # the head of the audit is that of the model
    record = list_models(Workspace.open(place))[0].record
    chosen = next(row for row in result.strategies if row.strategy == result.chosen)
    assert chosen.accuracy == record.metrics.accuracy
    assert chosen.loo_error == result.signals.loo_error == record.head.loo_error
    document = to_document(result)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_an_audit_changes_no_model_and_is_remembered(place, tiny_network, monkeypatch, capsys):
    before = [(ref.name, ref.version) for ref in list_models(Workspace.open(place))]
    result = audit(a_request(place))
    assert [(ref.name, ref.version) for ref in list_models(Workspace.open(place))] == before
    assert read_measurement(Workspace.open(place), "audits", result.job) == to_json(result)
    assert list_audits(str(place)).audits == (result,)
    render_jobs.audits(list_audits(str(place)))
    assert " data: 1 audit of 1 dataset, too few to refit" in capsys.readouterr().out
    monkeypatch.setattr(auditing, "_run", None)  # it would fail
    assert audit(a_request(place)) == result


def test_an_audit_is_a_job_of_its_own(place):
    audited, tuned = get_audit_plan(a_request(place)), get_job_plan(FinetuneRequest("shapes", str(place), epochs=1))
    assert audited.id != tuned.id
    assert audited.id != get_audit_plan(a_request(place, epochs=2)).id
    assert (audited.asked.what, tuned.asked.what) == ("audit", "finetune")


def test_a_cancelled_audit_continues(place, tiny_network):
    workspace = Workspace.open(place)
    job = get_audit_plan(a_request(place)).id

    def cancel(row):
        if row.epoch == 0:
            (place / "jobs" / job / "cancel").touch()

    with pytest.raises(CancelledError):
        audit(a_request(place), on_epoch=cancel)
    assert get_job(workspace, job).outcome is None
    rows = []
    result = audit(a_request(place), on_epoch=rows.append)
    assert get_job(workspace, job).outcome == to_document(result)
    assert [row.epoch for row in rows if row.arm == "fine-tune"] == [1]  # the first one is not run again


def test_without_a_head_there_is_nothing_to_audit(place):
    with pytest.raises(NotFoundError, match="no model 'flowers'"):
        get_audit_plan(AuditRequest("flowers", str(place)))


def test_pictures_that_came_later_are_another_audit(place, small):

    before = get_audit_plan(a_request(place)).id
    factories.write_photo(small.folder / "class0" / "late.png", 999, (64, 64))
    try:
        factories.onboard(OnboardRequest(str(small.folder), str(place), size=64))
    finally:
        (small.folder / "class0" / "late.png").unlink()
    assert get_audit_plan(a_request(place)).id != before
