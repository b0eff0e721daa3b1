import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flows.progress import Quiet
from pipeline.errors import ConflictError, DamagedError, NotFoundError
from storage.garbage import Limits, collect
from storage.jobs import find_outcome, get_job, list_jobs, request_cancel, running
from storage.manifests import write_manifest
from storage.verification import Verification
from tests.conftest import ROOT
from tests.factories import a_manifest, an_image
from tests.storage.test_checkpoints import a_checkpoint

JOB = "0123456789abcdef"
ASKED = {"dataset": "pets", "fingerprint": a_manifest().fingerprint}
NOW = Limits(grace_seconds=0.0)


@pytest.fixture
def place(workspace):
    return workspace


@pytest.fixture
def stopped(place):
    """A job that was begun and left, of a dataset's current pictures."""
    write_manifest(place, a_manifest())
    with running(place, JOB, ASKED) as job:
        job.checkpoints("arm").write(a_checkpoint(1))
        job.checkpoints("arm").write(a_checkpoint(2))
        job.write_status({"epoch": 1})
        job.pixels("fit", (2, 4, 4, 3), lambda pixels: pixels.fill(7))
    return place


def in_another_process(root, statement):
    """Start a process that runs a job, says so, and waits."""
    script = (
        "import sys; from storage.jobs import running; from storage.workspace import Workspace\n"
        f"with running(Workspace.open(sys.argv[1]), '{JOB}', {{}}) as job:\n    print('runs', flush=True); {statement}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, root], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "runs\n"
    return process


# ── one at a time ────────────────────────────────────────────────────────────────────────────────


def test_a_job_runs_in_one_process_and_a_killed_one_lets_it_go(place):
    process = in_another_process(place.root, "sys.stdin.read()")
    assert get_job(place, JOB).is_running
    with pytest.raises(ConflictError, match="running in another process"), running(place, JOB, ASKED):
        pass
    process.kill()
    process.communicate()
    assert not get_job(place, JOB).is_running
    with running(place, JOB, ASKED):
        assert get_job(place, JOB).is_running
    assert not get_job(place, JOB).is_running


def test_what_was_asked_first_stays(place):
    with running(place, JOB, ASKED):
        pass
    with running(place, JOB, {"dataset": "other"}):
        pass
    assert get_job(place, JOB).asked == ASKED


def test_a_request_to_stop_reaches_the_process_and_not_the_next_attempt(place):
    process = in_another_process(
        place.root, "\n    while not job.is_cancelled(): pass\n    print('stopped', flush=True)"
    )
    assert request_cancel(place, JOB)
    assert process.communicate()[0] == "stopped\n"
    with running(place, JOB, ASKED) as job:
        assert not job.is_cancelled()
    assert not request_cancel(place, JOB)  # nobody runs it
    with running(place, JOB, ASKED) as job:
        assert not job.is_cancelled()


# ── what is known ────────────────────────────────────────────────────────────────────────────────


def test_an_outcome_is_for_ever_and_takes_what_only_served_to_go_on(stopped):
    assert find_outcome(stopped, JOB) is None
    with running(stopped, JOB, ASKED) as job:
        assert job.checkpoints("arm").read().step == 2
        job.write_outcome({"gate": {"passed": False}})
    assert find_outcome(stopped, JOB) == {"gate": {"passed": False}}
    folder = stopped.job(JOB)
    assert sorted(path.name for path in folder.iterdir()) == ["job.json", "lock", "outcome.json", "status.json"]


def test_a_job_is_found_by_the_beginning_of_its_id(stopped):
    assert get_job(stopped, JOB[:4]).id == get_job(stopped, JOB).id == JOB
    assert get_job(stopped, JOB).status == {"epoch": 1}
    for text in ("ffff", JOB[:3], ""):
        with pytest.raises(NotFoundError, match=f"There is no job '{text}'. Known: {JOB}"):
            get_job(stopped, text)
    with running(stopped, JOB[:8] + "00000000", ASKED):
        pass
    with pytest.raises(NotFoundError, match="More than one job begins with '0123'"):
        get_job(stopped, "0123")


def test_a_damaged_document_hides_no_other_job_and_a_damaged_status_is_set_aside(stopped):
    with running(stopped, "another-job-0000", ASKED):
        pass
    (stopped.job(JOB) / "status.json").write_text("{}")
    assert get_job(stopped, JOB).status is None
    assert not (stopped.job(JOB) / "status.json").exists()
    (stopped.job(JOB) / "job.json").write_text("{}")
    assert [job.id for job in list_jobs(stopped)] == ["another-job-0000"]


# ── decoded pictures ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def job(place):
    with running(place, JOB, ASKED) as job:
        yield job


def never(pixels):
    raise AssertionError("decoded again")


def test_decoded_pictures_are_kept(job):
    found = job.pixels("fit", (3, 2, 2, 3), lambda pixels: pixels.fill(9))
    assert found.shape == (3, 2, 2, 3)
    assert (found == 9).all()
    assert not found.flags.writeable
    assert np.array_equal(job.pixels("fit", (3, 2, 2, 3), never), found)
    assert job.pixels("val", (1, 2, 2, 3), lambda pixels: pixels.fill(1)).max() == 1


def test_decoded_pictures_of_another_size_are_made_again(job, place):
    job.pixels("fit", (3, 2, 2, 3), lambda pixels: pixels.fill(9))
    os.truncate(place.job(JOB) / "pixels" / "fit.u8", 5)
    assert (job.pixels("fit", (3, 2, 2, 3), lambda pixels: pixels.fill(4)) == 4).all()


def test_what_could_not_be_decoded_leaves_nothing_behind(job, place):
    def fail(pixels):
        raise DamagedError("no picture")

    with pytest.raises(DamagedError):
        job.pixels("fit", (3, 2, 2, 3), fail)
    assert list((place.job(JOB) / "pixels").iterdir()) == []


def test_without_room_on_the_disk_nothing_is_decoded_ahead(job, place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert job.pixels("fit", (3, 2, 2, 3), never) is None
    monkeypatch.undo()
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert job.pixels("fit", (3, 2, 2, 3), never) is None
    assert list((place.job(JOB) / "pixels").iterdir()) == []


# ── verify and gc ────────────────────────────────────────────────────────────────────────────────


def verified(place):
    verification = Verification(str(place.root), Quiet())
    verification.run()
    return verification


def test_a_whole_job_is_verified_without_a_finding(stopped):
    verification = verified(stopped)
    assert verification.findings == []
    assert (verification.checked["jobs"], verification.checked["checkpoints"]) == (1, 2)


@pytest.mark.parametrize("damaged", ["status.json", "checkpoints/arm/*1-*.h5", "job.json"])
def test_damage_in_a_job_is_found(stopped, damaged):
    (path,) = stopped.job(JOB).glob(damaged)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (finding,) = verified(stopped).findings
    assert finding.path == str(path.relative_to(stopped.root))
    assert path.exists() == (damaged == "job.json")  # what was asked cannot be derived


def garbage_of(place, limits=NOW, delete=False):
    return {item.path.name: item for item in collect(place, (), limits, delete).garbage if item.kind == "job"}


def test_a_job_that_can_go_on_is_not_garbage(stopped):
    assert garbage_of(stopped) == {}


def test_a_job_on_pictures_that_changed_is_garbage(stopped):
    write_manifest(stopped, a_manifest(images=(*a_manifest().images, an_image(99))))
    assert garbage_of(stopped, Limits()) == {}  # too young
    (item,) = garbage_of(stopped, delete=True).values()
    assert item.path == stopped.job(JOB)
    assert item.num_bytes > 1000
    assert not item.path.exists()


def test_a_running_job_is_left_alone_whatever_its_pictures(stopped):
    write_manifest(stopped, a_manifest(images=(*a_manifest().images, an_image(99))))
    with running(stopped, JOB, ASKED):
        assert garbage_of(stopped) == {}


def test_what_an_ended_job_left_behind_is_garbage_and_its_outcome_is_not(stopped):
    with running(stopped, JOB, ASKED) as job:
        job.write_outcome({})
        job.checkpoints("arm").write(a_checkpoint())
    assert set(garbage_of(stopped, delete=True)) == {"checkpoints"}
    assert find_outcome(stopped, JOB) == {}
    assert garbage_of(stopped) == {}
