import json

from flows.cli import render
from pipeline.types import Rejected


def test_a_result_is_printed_as_one_object_with_the_version_of_its_form(capsys):
    render.json_object(Rejected("a.jpg", "it is empty"))
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "path": "a.jpg", "reason": "it is empty"}


def test_frozen_values_are_rows_with_a_column_for_each_field(capsys):
    render.values("rejected", [Rejected("a.jpg", "it is empty"), Rejected("b.jpg", "it is [red]no picture")])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["rejected"],
        ["path", "reason"],
        ["a.jpg", "it", "is", "empty"],
        ["b.jpg", "it", "is", "[red]no", "picture"],
    ]


def test_what_is_unknown_is_an_empty_cell_and_no_row_at_all_is_a_line_on_stderr(capsys):
    render.table("jobs", ("job", "epoch"), [("a", None), ("b", 1200)])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [["jobs"], ["job", "epoch"], ["a"], ["b", "1,200"]]
    render.table("jobs", (), [])
    assert capsys.readouterr() == ("", "no jobs yet\n")
