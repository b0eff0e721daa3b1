import json

from flows.cli import render
from pipeline.types import Rejected


def test_a_result_is_printed_as_one_object_with_the_version_of_its_form(capsys):
    render.json_object(Rejected("a.jpg", "it is empty"))
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "path": "a.jpg", "reason": "it is empty"}
