"""No row of a ledger is lost, doubled or read in part, whatever happens to the process or the file."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import ConflictError
from storage.disk.locks import alone
from storage.maintenance.garbage import Limits, collect
from storage.maintenance.verification import Verification
from storage.predictions.ledger import COMMIT_ROWS, MAX_PARTS, Ledger, open_ledger
from storage.predictions.parts import Row, SeenFile, encode_part, list_parts
from storage.predictions.table import write_table
from storage.workspace import Workspace
from tests.factories import rewrite_document
from tests.storage.faulty_disk import Death, FaultyDisk
from tests.storage.maintenance.test_verification import Listener
from tests.storage.test_crashes import CUTS, after_power_cut, new_root

INBOX = Path("/inbox")
OUTPUT = Path("/nowhere/out.csv")  # names the ledger where the table itself may be moved


def a_row(number, mtime_ns=1, model="pets@1", **changed):
    row = Row(SeenFile(f"{number:05d}.jpg", 1000 + number, mtime_ns), model, "2026-01-01T00:00:00+00:00")
    return row._replace(**{"top": (("cat", number / 7), ("dog", 1 - number / 7)), **changed})


def by_path(rows):
    return {row.file.path: row for row in rows}


def fill(workspace, output, rows):
    with open_ledger(workspace, INBOX, output) as ledger:
        for row in rows:
            ledger.append(row)


def rows_of(workspace, output):
    with open_ledger(workspace, INBOX, output) as ledger:
        return dict(ledger.rows)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.csv"


@pytest.fixture
def place(workspace, output):
    """The folder of the ledger, which is empty yet."""
    with open_ledger(workspace, INBOX, output):
        [folder] = workspace.predictions.iterdir()
    return folder


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


def test_rows_come_back_as_they_went_in(workspace, output):
    rows = [
        a_row(0),
        a_row(1, labels=(("cat", 0.75), ("dog", 0.5))),
        a_row(2, labels=()),
        a_row(3, top=(), error="not a picture that can be read (text)"),
        a_row(4)._replace(file=SeenFile("odd \udcff\n|.png", 1, 2)),
    ]
    fill(workspace, output, rows)
    assert rows_of(workspace, output) == by_path(rows)


def test_a_file_is_found_as_long_as_size_and_time_are_the_same(workspace, output):
    row = a_row(0)
    fill(workspace, output, [row])
    with open_ledger(workspace, INBOX, output) as ledger:
        assert ledger.find(row.file) == row
        assert ledger.find(row.file._replace(size_bytes=1)) is None
        assert ledger.find(row.file._replace(mtime_ns=2)) is None
        assert ledger.find(a_row(1).file) is None


def test_a_later_row_replaces_an_earlier_one_of_the_same_file(workspace, output):
    fill(workspace, output, [a_row(0), a_row(1)])
    fill(workspace, output, [a_row(0, mtime_ns=2, model="pets@2")])
    assert rows_of(workspace, output) == by_path([a_row(0, mtime_ns=2, model="pets@2"), a_row(1)])


def test_rows_are_committed_after_so_many_of_them_or_seconds(workspace, place):
    now = 0.0
    ledger = Ledger(workspace, place, lambda: now)
    for number in range(COMMIT_ROWS - 1):
        ledger.append(a_row(number))
    assert list_parts(place) == []
    ledger.append(a_row(COMMIT_ROWS))
    assert len(list_parts(place)) == 1
    ledger.append(a_row(COMMIT_ROWS + 1))
    now = 11.0
    ledger.append(a_row(COMMIT_ROWS + 2))
    assert len(list_parts(place)) == 2
    assert dict(Ledger(workspace, place).rows) == dict(ledger.rows)


def test_rows_are_committed_when_the_block_is_left_by_an_error(workspace, output):
    def rows():
        yield a_row(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(workspace, output, rows())
    assert rows_of(workspace, output) == by_path([a_row(0)])


def test_many_parts_become_one_with_the_same_rows(workspace, output, place):
    for number in range(MAX_PARTS + 1):
        fill(workspace, output, [a_row(number), a_row(0, mtime_ns=number)])
    assert len(list_parts(place)) == MAX_PARTS + 1
    before = rows_of(workspace, output)
    assert len(list_parts(place)) == 1
    fill(workspace, output, [a_row(1, mtime_ns=99)])
    assert rows_of(workspace, output) == {**before, "00001.jpg": a_row(1, mtime_ns=99)}


# ── whose output it is ───────────────────────────────────────────────────────────────────────────


def test_an_output_has_the_predictions_of_one_folder(workspace, output):
    fill(workspace, output, [a_row(0)])
    with pytest.raises(ConflictError, match="has the predictions of /inbox; this is /other"):
        open_ledger(workspace, Path("/other"), output).__enter__()
    with open_ledger(workspace, Path("/other"), output.with_name("other.csv")) as ledger:
        assert dict(ledger.rows) == {}


def test_somebody_elses_file_is_not_replaced(workspace, output):
    output.write_text("precious")
    with pytest.raises(ConflictError, match="exists, and its rows are not known"):
        fill(workspace, output, [a_row(0)])
    output.unlink()
    fill(workspace, output, [a_row(0)])
    output.write_text("ours from now on")
    assert rows_of(workspace, output) == by_path([a_row(0)])


def test_a_second_run_waits_for_the_first_and_finds_its_rows(workspace, output, place, caplog):
    found = []
    second = threading.Thread(target=lambda: found.append(rows_of(workspace, output)))
    with caplog.at_level("WARNING"), open_ledger(workspace, INBOX, output) as ledger:
        second.start()
        end = time.monotonic() + 30
        while "waiting for another process to finish its work" not in caplog.text:
            second.join(0.01)
            assert second.is_alive()
            assert time.monotonic() < end
        ledger.append(a_row(0))
    second.join()
    assert found == [by_path([a_row(0)])]
    with alone(place) as free:
        assert free


# ── damage ───────────────────────────────────────────────────────────────────────────────────────


def verify(workspace):
    verification = Verification(str(workspace.root), Listener())
    verification.run()
    return verification


def damage(path, data):
    path.write_bytes(data)
    return path


def test_every_flipped_bit_is_noticed_and_costs_one_row_at_most(workspace, output, place):
    rows = [a_row(number) for number in range(6)]
    fill(workspace, output, rows)
    [part] = list_parts(place)
    whole = part.read_bytes()
    head, lines = whole.index(b"\n") + 1, whole.count(b"\n")
    dice = random.Random(0)
    for place_ in sorted(dice.sample(range(len(whole)), 120)):
        flipped = bytearray(whole)
        flipped[place_] ^= 1 << dice.randrange(8)
        part.write_bytes(flipped)
        [finding] = verify(workspace).findings
        kept = rows_of(workspace, output)
        hit = whole.count(b"\n", head, place_) if place_ >= head else None
        lost = by_path(rows).keys() - kept.keys()
        assert finding.what == "predictions"
        assert kept.items() <= by_path(rows).items()
        # a line break that is gone takes the row after it as well
        assert lost <= {f"{number:05d}.jpg" for number in ((hit, hit + 1) if hit is not None else (0,))}, lines
    assert verify(workspace).findings == []


def test_a_part_that_was_cut_short_keeps_its_whole_rows(workspace, output, place):
    rows = [a_row(number) for number in range(6)]
    fill(workspace, output, rows)
    [part] = list_parts(place)
    whole = part.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        part.write_bytes(whole[:size])
        # one that lacks nothing but its line break is whole
        assert len(rows_of(workspace, output)) == max(whole[: size + 1].count(b"\n") - 1, 0)
        assert [path.read_bytes() for path in workspace.quarantine.iterdir()] == [whole[:size]]
        shutil.rmtree(workspace.quarantine)


def test_verify_mends_a_damaged_part_and_says_so(workspace, output, place):
    fill(workspace, output, [a_row(0), a_row(1)])
    [part] = list_parts(place)
    damage(part, part.read_bytes().replace(b"00001.jpg", b"00007.jpg"))
    verification = verify(workspace)
    [finding] = verification.findings
    assert (finding.what, finding.path) == ("predictions", str(part.relative_to(workspace.root)))
    assert finding.problem == "1 of its 2 rows are intact."
    assert "its intact rows stay" in finding.done
    assert "predicted again" in finding.next
    assert verification.checked["ledgers"] == verification.checked["prediction parts"] == 1
    assert rows_of(workspace, output) == by_path([a_row(0)])
    assert verify(workspace).findings == []


def test_verify_leaves_a_ledger_alone_that_somebody_works_with(workspace, output, place):
    fill(workspace, output, [a_row(0)])
    [part] = list_parts(place)
    damage(part, b"")
    with alone(place):
        assert verify(workspace).findings == []
    assert len(verify(workspace).findings) == 1


def test_a_damaged_name_of_the_ledger_is_written_anew(workspace, output, place):
    fill(workspace, output, [a_row(0)])
    output.write_text("as it was written")
    damage(place / "ledger.json", b"{}")
    assert rows_of(workspace, output) == by_path([a_row(0)])
    damage(place / "ledger.json", b"{}")
    [finding] = verify(workspace).findings
    assert finding.what == "ledger"
    assert rows_of(workspace, output) == by_path([a_row(0)])
    assert verify(workspace).findings == []


def test_a_part_of_another_version_is_left_as_it_is(workspace, output, place):
    fill(workspace, output, [a_row(0)])
    [part] = list_parts(place)
    rewrite_document(part, version=2)
    data = part.read_bytes()
    with pytest.raises(ConflictError, match="version 2"):
        rows_of(workspace, output)
    [finding] = verify(workspace).findings
    assert finding.done == "It was left as it is."
    assert part.read_bytes() == data


def test_gc_leaves_predictions_alone(workspace, output, place):
    fill(workspace, output, [a_row(0)])
    collected = collect(workspace, (), Limits(grace_seconds=0.0), delete=True)
    assert not [item for item in collected.garbage if item.path.is_relative_to(workspace.predictions)]
    assert rows_of(workspace, output) == by_path([a_row(0)])


# ── processes that die, and power cuts ───────────────────────────────────────────────────────────

BATCHES = [[a_row(0), a_row(1)], [a_row(2), a_row(0, mtime_ns=2)], [a_row(3)], [a_row(4), a_row(1, mtime_ns=5)]]
ALL = by_path(itertools.chain(*BATCHES))


def write_all(root, fs, promised):
    """Everything that changes a ledger or its output; tells after each commit what is now promised."""
    workspace = Workspace.open(root, fs=fs)
    output = root.parent / "out.csv"
    for batch in BATCHES:
        with open_ledger(workspace, INBOX, OUTPUT) as ledger:
            for row in batch:
                ledger.append(row)
            ledger.commit()
            promised.update(by_path(batch))
            write_table(output, ledger.rows.values(), 2, fs)


def assert_kept(root, promised):
    """A fresh process reads what was promised and nothing in part, goes on, and leaves nothing behind."""
    output = root.parent / "out.csv"
    whole = [table_of(itertools.chain(*BATCHES[:number])) for number in range(1, len(BATCHES) + 1)]
    assert not output.exists() or output.read_bytes() in whole
    workspace = Workspace.open(root)
    with open_ledger(workspace, INBOX, OUTPUT) as ledger:
        assert promised.keys() <= ledger.rows.keys()
        assert all(ledger.rows[path].file.mtime_ns >= row.file.mtime_ns for path, row in promised.items())
        for row in ALL.values():
            if ledger.find(row.file) is None:
                ledger.append(row)
        ledger.commit()
        assert dict(ledger.rows) == ALL
        write_table(output, ledger.rows.values(), 2, workspace.staging.fs)
    assert rows_of(workspace, OUTPUT) == ALL
    assert output.read_bytes() == whole[-1]
    assert not [path for path in root.parent.iterdir() if path.name.startswith(".")]
    assert not workspace.quarantine.exists()


def table_of(rows):
    lines = [
        f"{row.file.path},{row.top[0][0]},{row.top[0][1]:.6f},{row.top[1][0]},{row.top[1][1]:.6f},,,,pets@1,{row.predicted}"
        for _, row in sorted(by_path(rows).items())
    ]
    header = "path,label,probability,label_2,probability_2,labels,label_probabilities,error,model,predicted"
    return "".join(f"{line}\n" for line in [header, *lines]).encode()


@pytest.fixture
def merging_early(monkeypatch):
    monkeypatch.setattr("storage.predictions.ledger.MAX_PARTS", 2)


@pytest.fixture
def every_call(disk, merging_early):
    """Number -> name of all calls of a run that nothing goes wrong in."""
    fs = FaultyDisk()
    write_all(new_root(disk, 0), fs, {})
    assert any(path.name.startswith("part-") for name, path in fs.calls if name == "unlink")
    return {k: name for k, (name, _) in enumerate(fs.calls, start=1)}


def die(root, fs):
    promised = {}
    with pytest.raises(Death):
        write_all(root, fs, promised)
    fs.end_process()
    return promised


def die_everywhere(disk, calls, cuts=(), **fault):
    for k in calls:
        root, fs = new_root(disk, k), FaultyDisk(k, Death(), **fault)
        promised = die(root, fs)
        for cut in cuts:
            found = after_power_cut(fs, root, *CUTS[cut](random.Random(k)))
            assert_kept(found, promised)
            shutil.rmtree(found.parent)
        assert_kept(root, promised)
        shutil.rmtree(root.parent)


def test_a_process_may_die_or_the_power_may_go_before_any_call(disk, every_call):
    die_everywhere(disk, every_call, CUTS)


def test_a_process_may_die_within_any_write(disk, every_call):
    die_everywhere(disk, [k for k, name in every_call.items() if name == "write"], torn=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_call_is_an_error_and_nothing_promised_is_lost(disk, every_call, number):
    for k in every_call:
        root, promised = new_root(disk, k), {}
        fs = FaultyDisk(k, OSError(number, os.strerror(number)), torn=True, bytes_per_write=200)
        try:
            write_all(root, fs, promised)
        except ConflictError as error:
            assert str(error).startswith("Cannot write")  # noqa: PT017  some calls may fail unnoticed
        fs.end_process()
        assert_kept(root, promised)
        shutil.rmtree(root.parent)


def test_a_process_may_die_at_any_call_while_it_mends(disk):
    for k in itertools.count(1):
        root = new_root(disk, k)
        fill(Workspace.open(root), OUTPUT, [a_row(0), a_row(1)])
        [part] = root.glob("predictions/*/part-*")
        damaged = damage(part, part.read_bytes().replace(b"00001.jpg", b"00007.jpg")).read_bytes()
        fs = FaultyDisk(k, Death())
        try:
            rows_of(Workspace.open(root, fs=fs), OUTPUT)
        except Death:
            fs.end_process()
        assert rows_of(Workspace.open(root), OUTPUT) == by_path([a_row(0)])
        assert damaged in [path.read_bytes() for path in root.glob("quarantine/*-part-*")]
        if fs.num_calls < k:
            break
    assert k > 10


@pytest.mark.parametrize(("forgotten", "cut"), [("fsync", "names without their bytes"), ("fsync_path", "nothing")])
def test_a_protocol_that_does_not_sync_is_noticed(disk, every_call, forgotten, cut):
    with pytest.raises((AssertionError, ConflictError)):
        die_everywhere(disk, every_call, [cut], forgets={forgotten})


def test_a_part_names_its_format(place):
    assert encode_part([]).startswith(b'{"format": "headstart.predictions", "version": 1, "num_rows": 0')
