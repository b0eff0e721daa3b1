"""Outcomes as the revision before wrote them, when they were dictionaries: read, and printed with the same keys."""

import json
from pathlib import Path

import pytest

from flows.documents import SavedModel, to_document
from flows.finetuning.results import FinetuneResult, JobEnd
from pipeline.decision.audited import AuditResult
from pipeline.decision.finetuned import FinetuneReport, JobAsked, JobStatus
from pipeline.decision.refit import refit_thresholds
from pipeline.jsonable import from_json, to_json

OLD = json.loads(Path(__file__).with_name("outcomes.json").read_text())


def without_nulls(value):
    """Drop what a document of either revision may lack: the first epoch has no training loss."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("what", "kind"), [("finetune", FinetuneResult), ("audit", AuditResult)])
def test_an_outcome_of_the_revision_before_is_read_and_printed_as_it_was(what, kind):
    assert without_nulls(to_document(from_json(kind, OLD[what]))) == without_nulls(OLD[what])


def test_what_an_old_outcome_says_is_understood():
    tuned = from_json(FinetuneResult, OLD["finetune"])
    assert (tuned.gate.passed, tuned.model) == (True, SavedModel("shapes", 2, "/workspace/models/shapes/2"))
    assert tuned.scratch.race.continued is False
    assert [row.train_loss is None for row in tuned.curve] == [True, False]
    assert tuned.metrics.accuracy_interval[0] < tuned.metrics.accuracy_interval[1]
    audited = from_json(AuditResult, OLD["audit"])
    assert [bool(row.taps) for row in audited.strategies] == [bool(not row.curve) for row in audited.strategies]
    assert [row.epochs for row in audited.strategies] == [None, None, 1, 10]
    assert [row.num_audits for row in refit_thresholds([audited])] == [0, 1]


@pytest.mark.parametrize("what", ["finetune", "audit"])
def test_any_outcome_has_a_gate_and_says_what_was_saved(what):
    end = from_json(JobEnd, OLD[what])
    assert (end.gate.passed, end.model is not None) == ((True, True) if what == "finetune" else (False, False))


def test_a_report_in_an_old_record_is_read():
    report = from_json(FinetuneReport, OLD["finetune"])
    assert without_nulls(to_json(report)).items() <= without_nulls(OLD["finetune"]).items()


def test_an_old_job_is_known_by_what_it_was_asked():
    asked = {"dataset": "pets", "fingerprint": "ab", "case": 3, "head_version": 1, "epochs": 4, "num_train": 100}
    assert to_json(from_json(JobAsked, asked)) == {**asked, "what": "finetune"}
    status = {"arm": "scratch", "num_epochs": 9, "epoch": 0, "step": 0, "val_accuracy": 0.5, "val_log_loss": 1.0}
    assert from_json(JobStatus, {**status, "seconds": 2.0}).train_loss is None
