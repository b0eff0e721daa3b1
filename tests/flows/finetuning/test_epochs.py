import json
import math

from flows.finetuning.epochs import describe_epoch, rows_of, table_of
from pipeline.decision.finetuned import JobStatus
from tests.factories import a_finetune_result, a_scratch_report


def a_status(epoch=1, train_loss=0.5):
    return JobStatus(
        arm="fine-tune",
        num_epochs=4,
        epoch=epoch,
        step=8 * epoch,
        train_loss=train_loss,
        val_accuracy=0.75,
        val_log_loss=0.7,
        seconds=61.2,
    )


def test_an_epoch_is_one_line():
    assert describe_epoch(a_status()) == "fine-tune: epoch 1 of 4, training loss 0.500, validation accuracy 0.750, 61 s"


def test_the_network_before_training_has_no_training_loss():
    assert describe_epoch(a_status(0, None)) == "fine-tune: epoch 0 of 4, validation accuracy 0.750, 61 s"


def test_the_rows_of_a_table_share_their_columns_and_are_json():
    rows = table_of([{"epoch": 0, "val_accuracy": 0.123456}, {"epoch": 1, "train_loss": math.nan, "val_accuracy": 1.0}])
    assert rows == [
        {"epoch": 0, "val_accuracy": 0.1235, "train_loss": None},
        {"epoch": 1, "val_accuracy": 1.0, "train_loss": None},
    ]
    json.dumps(rows, allow_nan=False)


def test_the_epochs_of_both_arms_are_told_apart():
    result = a_finetune_result(num_epochs=1)
    assert [row["epoch"] for row in rows_of(result)] == [0, 1]
    assert "arm" not in rows_of(result)[0]
    raced = a_finetune_result(num_epochs=1, scratch=a_scratch_report())
    assert [(row["arm"], row["epoch"]) for row in rows_of(raced)] == [
        ("fine-tune", 0),
        ("fine-tune", 1),
        ("scratch", 0),
        ("scratch", 1),
    ]
