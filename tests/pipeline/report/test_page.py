import json
import re
from dataclasses import replace

import pytest

from pipeline.decision.nouns import Alternative, RankedBackbone, Reference, Signal
from pipeline.report.page import render_report
from pipeline.report.record import ModelRecord
from pipeline.types import ClassMetrics, LabelMetrics, LearningCurve, OneLabelMetrics
from tests import factories

HOSTILE = "a|b\n`c` *d* <script> [x](y) \udcff\\"


def a_record(num_classes=3, num_rejected=1, **changed):
    """The record of a saved head: version 3 of `flowers`."""
    names = [f"class{i}" for i in range(num_classes)]
    per_class = tuple(
        ClassMetrics(name, num_images=10, precision=0.9, recall=0.8, f1=i / num_classes) for i, name in enumerate(names)
    )
    metrics = factories.some_metrics(
        num_images=300,
        accuracy=0.917,
        accuracy_interval=(0.88, 0.943),
        per_class=per_class,
        confusion=tuple(tuple(8 if i == j else i for j in range(num_classes)) for i in range(num_classes)),
    )
    plan = factories.a_plan(
        case=2,
        strategy="head-on-evidence",
        reasons=("Different: D_BN 0.286 over 160 pictures is above 0.09, by 0.196.",),
        signals=(Signal("training pictures", 1000, 2000, "small below"),),
        alternatives=(Alternative("fine-tune", "1,000 training pictures are few"),),
        similarity=factories.a_similarity(distance=0.286, early=0.3, middle=0.2, late=0.4, verdict="different"),
        size=factories.a_size(num_train=1000, num_classes=num_classes, smallest_class=40),
    )
    head = factories.a_head()
    chosen, other = replace(head.taps[1], tap="top"), replace(head.evidence[0], tap="stage6_grid", loo_error=0.2)
    head = replace(
        head,
        taps=(chosen,),
        evidence=(replace(other, share=0.0, logme=0.3), replace(head.evidence[1], share=1.0, logme=0.4)),
        loo_error=0.09,
        reasons=("Of 2 taps, top is enough.",),
    )
    manifest = factories.a_manifest(dataset="flowers", notes=("One class has fewer than 10 pictures.",))
    rejected = [factories.a_rejected(f"bad{i}.jpg", "truncated") for i in range(num_rejected)]
    record = factories.a_record(manifest, plan, head, metrics, rejected)
    return replace(record, **{"name": "flowers", "model_version": 3, "files": {"model.keras": "ab" * 32}, **changed})


def tables(page):
    """Yield each table of the page as a list of rows of cells, split at bars that are not escaped."""
    for block in re.findall(r"(?:^\|.*\|$\n?)+", page, flags=re.MULTILINE):
        yield [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]


def test_the_page_opens_with_the_model_and_the_verdict():
    page = render_report(a_record())
    assert page.startswith("# flowers@3\n\n**Accuracy 91.7%** (95 % interval 88.0% to 94.3%) on 300 test pictures.\n")
    assert "Case 2: small, different from what the backbone has seen. The strategy is head-on-evidence." in page
    assert "It is a head on frozen features of a_backbone, made from 1,000 training pictures of 3 classes" in page
    assert "on 2026-11-22T10:00:00+00:00." in page


def test_a_fine_tuned_network_is_said_to_be_one_and_shows_its_curve():
    page = render_report(a_record(finetune=factories.a_finetuning()))
    assert "It is a_backbone, fine-tuned, made from 1,000" in page
    assert "| 1 (best) | 0.500 | 60.0% | 1.000 | 2 |" in page
    raced = factories.a_finetuning(arm="scratch", scratch=factories.a_scratch_report())
    assert "It is a network from random weights, made from" in render_report(a_record(finetune=raced))


def test_the_page_gives_every_reason():
    page = render_report(a_record())
    assert "- Different: D\\_BN" not in page  # underscores inside words are no markup
    assert "- Different: D_BN 0.286" in page
    assert "- Of 2 taps, top is enough." in page


def test_a_record_read_back_from_json_gives_the_same_page():
    record = a_record()
    assert render_report(ModelRecord.from_json(json.loads(json.dumps(record.to_json())))) == render_report(record)


def test_the_chosen_taps_are_marked():
    rows = {row[0].strip(): row[-1].strip() for table in tables(render_report(a_record())) for row in table}
    assert (rows["top"], rows["stage6_grid"]) == ("1.00", "")


def test_classes_come_worst_first_and_those_without_pictures_last():
    record = a_record()
    empty = ClassMetrics("empty", num_images=0, precision=0.0, recall=0.0, f1=0.0)
    confusion = (*((*row, 0) for row in record.metrics.confusion), (0,) * 4)
    metrics = replace(record.metrics, per_class=(*record.metrics.per_class, empty), confusion=confusion)
    page = render_report(replace(record, metrics=metrics))
    section = page[page.index("## Classes") : page.index("## Most")]
    names = [row[0].strip() for table in tables(section) for row in table][2:]
    assert names == ["class0", "class1", "class2", "empty"]


def test_confusions_come_most_frequent_first():
    page = render_report(a_record(num_classes=6))
    section = page[page.index("## Most frequent") : page.index("## Confusion")]
    rows = [[cell.strip() for cell in row] for table in tables(section) for row in table][2:]
    assert len(rows) == 10
    assert rows[0] == ["class5", "class0", "5"]


@pytest.mark.parametrize(("num_classes", "shown"), [(15, True), (16, False)])
def test_only_small_confusion_matrices_are_shown(num_classes, shown):
    assert ("## Confusion matrix" in render_report(a_record(num_classes))) is shown


def test_long_tables_say_how_many_rows_they_hide():
    page = render_report(a_record(num_classes=73, num_rejected=55))
    assert "23 more classes are not shown." in page
    assert "5 more files are not shown." in page
    assert "class49 " in page
    assert "class50 " not in page
    assert "not shown" not in render_report(a_record(num_classes=50, num_rejected=50))


def test_hostile_names_break_no_table_and_no_encoding():
    record = a_record()
    per_class = (replace(record.metrics.per_class[0], name=HOSTILE), *record.metrics.per_class[1:])
    data = replace(record.data, rejected=(factories.a_rejected(HOSTILE),), notes=(HOSTILE,))
    page = render_report(replace(record, metrics=replace(record.metrics, per_class=per_class), data=data))
    page.encode("utf-8")
    found = list(tables(page))
    assert len(found) == len(list(tables(render_report(a_record()))))
    for table in found:
        assert len({len(row) for row in table}) == 1
    body = page[: page.index("## How to use it")]
    assert "<script>" not in body.replace("\\<", "")
    assert re.search(r"(?<!\\)`", body) is None


def test_a_failed_certificate_stands_out():
    record = a_record()
    failed = replace(record.certificate, passed=False)
    assert "**Failed**: on 8 pictures" in render_report(replace(record, certificate=failed))


def test_the_page_says_how_to_use_the_model():
    page = render_report(a_record())
    assert "    headstart predict flowers@3 PICTURE...\n" in page
    assert '    model = keras.models.load_model("model.keras")\n' in page


def test_the_decision_shows_every_signal_with_its_boundary_and_what_was_not_taken():
    page = render_report(a_record())
    assert "| training pictures | 1,000 | 2,000 | -1,000 | small below |" in page
    assert "- fine-tune: 1,000 training pictures are few." in page
    assert "The table of the four cases says head-on-evidence, and that is the strategy." in page
    record = a_record()
    changed = render_report(replace(record, plan=replace(record.plan, strategy="fine-tune")))
    assert "The table of the four cases says head-on-evidence; the strategy is fine-tune." in changed


# ── labels that do not exclude each other ────────────────────────────────────────────────────────


def a_record_of_labels():
    record = a_record()
    red = OneLabelMetrics("red", 10, average_precision=0.9, threshold=0.375, precision=0.9, recall=0.8, f1=0.85)
    metrics = LabelMetrics(
        split="test",
        num_images=300,
        mean_average_precision=0.8125,
        map_interval=(0.78, 0.84),
        macro_f1=0.7,
        micro_f1=0.71,
        subset_accuracy=0.55,
        log_loss=0.2,
        ece=0.01,
        per_class=(red, replace(red, name="big", average_precision=0.7)),
    )
    head = replace(record.head, activation="sigmoid", thresholds=(0.375, 0.375))
    return replace(record, metrics=metrics, head=head, data=replace(record.data, exclusive=False))


def test_labels_that_do_not_exclude_each_other_are_reported_with_their_thresholds_worst_first():
    report = render_report(a_record_of_labels())
    assert "**mAP 0.812** (95 % interval 0.780 to 0.840) on 300 test pictures." in report
    rows = [line for line in report.splitlines() if line.startswith(("| red |", "| big |"))]
    assert rows == [
        "| big | 10 | 0.700 | 0.375 | 0.900 | 0.800 | 0.850 |",
        "| red | 10 | 0.900 | 0.375 | 0.900 | 0.800 | 0.850 |",
    ]
    assert "each held out once: mAP 0.910" in report
    assert "the set of labels is the same" in report
    assert "ccuracy" not in report.replace("val_accuracy", "")
    assert "onfusion" not in report


def test_a_calibration_error_beyond_chance_is_explained():
    record = a_record()
    metrics = replace(
        record.metrics, log_loss=0.8, ece=0.09, ece_by_chance=(0.03, 0.05), intervals={"ece": (0.07, 0.12)}
    )
    by_chance = render_report(replace(record, metrics=replace(metrics, ece=0.04)))
    assert "would show a calibration error of 0.0300 on 300 pictures; 5 % of the time, more than 0.0500." in by_chance
    page = render_report(replace(record, metrics=metrics, head=replace(record.head, loo_log_loss=0.4)))
    assert "| expected calibration error | 0.0900 | 0.0700 to 0.1200 |" in page
    assert "The error here is larger" in page
    assert "0.400 nats there and 0.800 here. The pictures scored are harder than the training pictures" in page
    assert "The error here is larger" not in by_chance


def test_an_accuracy_has_one_interval_the_one_it_is_quoted_with():
    record = a_record()
    page = render_report(replace(record, metrics=replace(record.metrics, intervals={"accuracy": (0.1, 0.2)})))
    assert "| accuracy | 0.9170 | 0.8800 to 0.9430 |" in page
    assert "0.1000 to 0.2000" not in page


def test_the_layers_are_shown_by_depth_with_accuracy_and_evidence():
    page = render_report(a_record())
    assert "| top | average | 90.0% | ██████████████████ | 0.400 | 0.1 | 1.00 |" in page
    assert "| stage6_grid | 3x3 grid | 80.0% | ████████████████ | 0.300 | 0.1 |  |" in page


def test_the_learning_curve_shows_what_was_measured_and_what_is_expected():
    curve = LearningCurve(
        "Data-limited, so more pictures pay.",
        (250, 500, 1000),
        (0.4, 0.3, 0.2),
        floor=0.05,
        slope=0.1 * 2000**0.5,
        gain_of_doubling=0.05,
        verdict="data-limited",
    )
    page = render_report(a_record(learning_curve=curve))
    assert "| 500 | 30.0% | ███████████████ | measured |" in page
    assert "| 2,000 | 15.0% |  | expected |" in page
    assert "Too few to tell." in render_report(a_record(learning_curve=LearningCurve("Too few to tell.")))


def test_what_is_expected_of_twice_as_many_pictures_does_not_start_from_the_error_of_a_sample():
    curve = LearningCurve(
        "Representation-limited.",
        (1000, 2000, 4000),
        (0.4, 0.3, 0.2),
        floor=0.1,
        slope=0.06 * 18_000**0.5,
        gain_of_doubling=0.01,
        verdict="representation-limited",
    )
    record = a_record(learning_curve=curve)
    plan = replace(record.plan, size=replace(record.plan.size, num_train=9000))
    assert "| 18,000 | 16.0% |  | expected |" in render_report(replace(record, plan=plan))


def test_the_quote_is_shown_beside_what_came():
    scored = {
        "minutes": {"predicted": 2.0, "actual": 3.0, "ratio": 1.5},
        "disk (GB)": {"predicted": 0.0, "actual": 0.0, "ratio": None},
    }
    page = render_report(a_record(quote_scored=scored))
    assert "| minutes | 2.00 | 3.00 | 1.50 |" in page
    assert "| disk (GB) | 0.00 | 0.00 |  |" in page


def test_the_report_places_the_dataset_among_known_ones():
    record = a_record()
    known = (Reference("spectrograms", 0.25), Reference("omniglot", 0.298))
    similarity = replace(record.plan.similarity, interval=(0.27, 0.3), references=known)
    report = render_report(replace(record, plan=replace(record.plan, similarity=similarity)))
    rows = [row for row in report.splitlines() if re.match(r"\| (spectrograms|this dataset|omniglot)", row)]
    assert rows == ["| spectrograms | 0.250 |", "| this dataset | 0.286 |", "| omniglot | 0.298 |"]
    assert "(95 % interval 0.270 to 0.300)" in report


def test_the_report_shows_how_backbones_compared():
    ranking = (RankedBackbone("a", 0.25, 0.5), RankedBackbone("b", why_not="no time was left"))
    record = a_record()
    report = render_report(replace(record, plan=replace(record.plan, backbones=ranking)))
    assert "| a | 0.2500 | 0.500 |  |" in report
    assert "| b |  |  | no time was left |" in report
    assert "## Backbones" not in render_report(a_record())
