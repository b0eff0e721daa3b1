import json
import math

from flows.finetuning.epochs import describe_epoch, rows_of, table_of


def a_row(epoch=1, **changed):
    row = {
        "arm": "fine-tune",
        "num_epochs": 4,
        "epoch": epoch,
        "train_loss": 0.5,
        "val_accuracy": 0.75,
        "seconds": 61.2,
    }
    return row | changed


def test_an_epoch_is_one_line():
    assert describe_epoch(a_row()) == "fine-tune: epoch 1 of 4, training loss 0.500, validation accuracy 0.750, 61 s"


def test_the_network_before_any_training_has_no_training_loss():
    row = a_row(0)
    del row["train_loss"]
    assert describe_epoch(row) == "fine-tune: epoch 0 of 4, validation accuracy 0.750, 61 s"


def test_the_rows_of_a_table_share_their_columns_and_are_json():
    rows = table_of([{"epoch": 0, "val_accuracy": 0.123456}, {"epoch": 1, "train_loss": math.nan, "val_accuracy": 1.0}])
    assert rows == [
        {"epoch": 0, "val_accuracy": 0.1235, "train_loss": None},
        {"epoch": 1, "val_accuracy": 1.0, "train_loss": None},
    ]
    json.dumps(rows, allow_nan=False)


def test_the_epochs_of_both_arms_are_told_apart():
    tuned, raced = [{"epoch": 0}, {"epoch": 1}], [{"epoch": 0}]
    assert rows_of({"curve": tuned, "scratch": None}) == tuned
    assert rows_of({"curve": tuned, "scratch": {"curve": raced}}) == [
        {"arm": "fine-tune", "epoch": 0},
        {"arm": "fine-tune", "epoch": 1},
        {"arm": "scratch", "epoch": 0},
    ]
