import fcntl
import itertools
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flows.progress import Quiet
from pipeline.errors import ConflictError, DamagedError, NotFoundError
from storage.datasets.manifests import write_manifest
from storage.jobs.folder import (
    find_outcome,
    get_job,
    last_written,
    list_jobs,
    remove_job,
    request_cancel,
    run_exclusively,
)
from storage.maintenance.garbage import Limits, collect
from storage.maintenance.verification import Verification
from storage.workspace import Workspace
from tests.conftest import ROOT
from tests.factories import a_job_asked, a_manifest, an_image
from tests.storage.faulty_disk import Death, FaultyDisk
from tests.storage.jobs.test_checkpoints import a_checkpoint

JOB = "0123456789abcdef"
ASKED = a_job_asked("pets", fingerprint=a_manifest().fingerprint)
NOW = Limits(grace_seconds=0.0)


@pytest.fixture
def place(workspace):
    return workspace


@pytest.fixture
def stopped(place):
    """A job that was begun and left, of a dataset's current pictures."""
    write_manifest(place, a_manifest())
    with run_exclusively(place, JOB, ASKED) as job:
        job.checkpoints("arm").write(a_checkpoint(1))
        job.checkpoints("arm").write(a_checkpoint(2))
        job.write_status({"epoch": 1})
        job.pixels("fit", (2, 4, 4, 3), lambda pixels: pixels.fill(7))
    return place


def in_another_process(root, statement):
    """Start a process that runs a job, says so, and waits."""
    script = (
        "import sys; from storage.jobs.folder import run_exclusively; from storage.workspace import Workspace\n"
        "from tests.factories import a_job_asked\n"
        f"with run_exclusively(Workspace.open(sys.argv[1]), '{JOB}', a_job_asked()) as job:\n"
        f"    print('runs', flush=True); {statement}"
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
    with pytest.raises(ConflictError, match="running in another process"), run_exclusively(place, JOB, ASKED):
        pass
    process.kill()
    process.communicate()
    assert not get_job(place, JOB).is_running
    with run_exclusively(place, JOB, ASKED):
        assert get_job(place, JOB).is_running
    assert not get_job(place, JOB).is_running


def test_whoever_only_looks_at_a_job_does_not_keep_it_from_starting(stopped, monkeypatch):
    looking = os.open(stopped.job(JOB) / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    waited = []

    def stop_looking(seconds):
        waited.append(seconds)
        fcntl.flock(looking, fcntl.LOCK_UN)

    monkeypatch.setattr("storage.jobs.folder.time.sleep", stop_looking)
    with run_exclusively(stopped, JOB, ASKED):
        assert waited
    os.close(looking)


def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_none(stopped, monkeypatch):
    flock = fcntl.flock

    def late(descriptor, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(stopped.job(JOB))
        return flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with run_exclusively(stopped, JOB, ASKED):
        assert get_job(stopped, JOB).is_running


def test_what_was_asked_first_stays(place):
    with run_exclusively(place, JOB, ASKED):
        pass
    with run_exclusively(place, JOB, a_job_asked("other")):
        pass
    assert get_job(place, JOB).asked == ASKED


def test_a_request_to_stop_reaches_the_process_and_not_the_next_attempt(place):
    process = in_another_process(
        place.root, "\n    while not job.is_cancelled(): pass\n    print('stopped', flush=True)"
    )
    assert request_cancel(place, JOB)
    assert process.communicate()[0] == "stopped\n"
    with run_exclusively(place, JOB, ASKED) as job:
        assert not job.is_cancelled()
    assert not request_cancel(place, JOB)  # nobody runs it
    with run_exclusively(place, JOB, ASKED) as job:
        assert not job.is_cancelled()


# ── what is known ────────────────────────────────────────────────────────────────────────────────


def test_an_outcome_is_for_ever_and_takes_what_only_served_to_go_on(stopped):
    assert find_outcome(stopped, JOB) is None
    with run_exclusively(stopped, JOB, ASKED) as job:
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
    with run_exclusively(stopped, JOB[:8] + "00000000", ASKED):
        pass
    with pytest.raises(NotFoundError, match="More than one job begins with '0123'"):
        get_job(stopped, "0123")


def test_a_damaged_document_hides_no_other_job_and_a_damaged_status_is_set_aside(stopped):
    with run_exclusively(stopped, "another-job-0000", ASKED):
        pass
    (stopped.job(JOB) / "status.json").write_text("{}")
    assert get_job(stopped, JOB).status is None
    assert not (stopped.job(JOB) / "status.json").exists()
    (stopped.job(JOB) / "job.json").write_text("{}")
    assert [job.id for job in list_jobs(stopped)] == ["another-job-0000"]
    with run_exclusively(stopped, JOB, ASKED):  # who runs it knows what was asked
        assert get_job(stopped, JOB).asked == ASKED


def test_files_that_go_while_somebody_looks_are_no_error(stopped, monkeypatch):
    (stopped.job(JOB) / "cancel").symlink_to("gone")
    assert get_job(stopped, JOB).written > 0

    def gone(folder):
        raise FileNotFoundError(folder)

    monkeypatch.setattr("storage.jobs.folder.last_written", gone)
    assert list_jobs(stopped) == []


# ── decoded pictures ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def job(place):
    with run_exclusively(place, JOB, ASKED) as job:
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


def test_decoded_pictures_are_synced_before_they_get_their_name(job, monkeypatch):
    calls = []
    flush, replace = np.memmap.flush, os.replace
    monkeypatch.setattr(np.memmap, "flush", lambda pixels: (calls.append("sync"), flush(pixels)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("name"), replace(*paths)))
    job.pixels("fit", (3, 2, 2, 3), lambda pixels: (calls.append("fill"), pixels.fill(9)))
    assert calls == ["fill", "sync", "name"]


def test_what_a_killed_process_had_decoded_is_not_read_and_does_not_stay(place):
    kill = "job.pixels('fit', (3, 2, 2, 3), lambda pixels: (pixels.fill(5), os.kill(os.getpid(), 9)))"
    in_another_process(place.root, f"import os; {kill}").communicate()
    assert len(list((place.job(JOB) / "pixels").iterdir())) == 1
    with run_exclusively(place, JOB, ASKED) as job:
        assert (job.pixels("fit", (3, 2, 2, 3), lambda pixels: pixels.fill(9)) == 9).all()
    assert [path.name for path in (place.job(JOB) / "pixels").iterdir()] == ["fit.u8"]


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


def test_a_running_job_is_not_verified(stopped):
    with run_exclusively(stopped, JOB, ASKED):
        (stopped.job(JOB) / "status.json").write_text("{}")
        (newest,) = stopped.job(JOB).glob("checkpoints/arm/*1-*.h5")
        os.truncate(newest, 5)
        assert verified(stopped).findings == []
    assert {finding.what for finding in verified(stopped).findings} == {"job", "checkpoint"}


def test_a_job_that_ended_before_it_had_begun_is_no_damage_and_garbage(stopped):
    (stopped.job(JOB) / "job.json").unlink()
    assert verified(stopped).findings == []
    assert garbage_of(stopped, Limits()) == {}
    assert set(garbage_of(stopped, delete=True)) == {JOB}
    assert not stopped.job(JOB).exists()


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
    with run_exclusively(stopped, JOB, ASKED):
        assert garbage_of(stopped) == {}


def test_a_job_that_was_heard_of_since_it_was_found_stays(stopped):
    before = last_written(stopped.job(JOB)) - 1
    remove_job(stopped, stopped.job(JOB), before)
    assert get_job(stopped, JOB)
    remove_job(stopped, stopped.job(JOB), before + 1)
    assert not stopped.job(JOB).exists()


def test_the_pictures_of_a_job_are_known_as_long_as_its_folder_stays(stopped):
    write_manifest(stopped, a_manifest(images=(*a_manifest().images, an_image(99))))
    manifest = stopped.manifest("pets", a_manifest().fingerprint)
    collect(stopped, (), NOW, delete=True)
    assert not stopped.job(JOB).exists()
    assert manifest.exists()
    collect(stopped, (), NOW, delete=True)
    assert not manifest.exists()


@pytest.mark.parametrize("damaged", ["job.json", "outcome.json"])
def test_what_a_damaged_document_would_decide_is_not_removed(stopped, damaged):
    with run_exclusively(stopped, JOB, ASKED) as job:
        job.write_outcome({})
        job.checkpoints("arm").write(a_checkpoint())
    (stopped.job(JOB) / damaged).write_text("{}")
    with pytest.raises(ConflictError, match="Nothing was removed"):
        collect(stopped, (), NOW, delete=True)
    assert len(list(stopped.job(JOB).glob("checkpoints/arm/*"))) == 1
    assert (stopped.job(JOB) / damaged).read_text() == "{}"


def test_a_removal_that_dies_at_any_call_leaves_a_whole_job_or_none(stopped, tmp_path):
    write_manifest(stopped, a_manifest(images=(*a_manifest().images, an_image(99))))
    for k in itertools.count(1):
        disk = FaultyDisk(error=Death())
        place = Workspace.open(shutil.copytree(stopped.root, tmp_path / str(k)), fs=disk)
        disk.fail_at = disk.num_calls + k
        try:
            collect(place, (), NOW, delete=True)
        except Death:
            disk.end_process()
        else:
            break
        again = Workspace.open(place.root)
        if again.job(JOB).exists():
            with run_exclusively(again, JOB, ASKED) as job:
                assert job.checkpoints("arm").read().step == 2
        collect(again, (), NOW, delete=True)
        assert not again.job(JOB).exists()
        assert not any(again.staging.folder.iterdir())
    assert k > 5


def test_what_an_ended_job_left_behind_is_garbage_and_its_outcome_is_not(stopped):
    with run_exclusively(stopped, JOB, ASKED) as job:
        job.write_outcome({})
        job.checkpoints("arm").write(a_checkpoint())
    assert set(garbage_of(stopped, delete=True)) == {"checkpoints"}
    assert find_outcome(stopped, JOB) == {}
    assert garbage_of(stopped) == {}
