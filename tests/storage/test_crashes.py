"""What survives when a write fails, a process dies or the power goes, at every call that changes the disk."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConflictError
from pipeline.types import Image, Manifest
from storage.datasets.manifests import find_dataset, read_manifest, write_manifest
from storage.disk import atomic
from storage.disk.atomic import Staging, write_stream
from storage.features import packs, shards
from storage.features.claims import Claims
from storage.features.packs import open_pack, write_pack
from storage.features.shards import encode_shard
from storage.features.spaces import list_spaces, write_space
from storage.features.store import FeatureStore
from storage.features.writer import FeatureWriter
from storage.maintenance.garbage import Limits, collect
from storage.workspace import Workspace
from tests.storage.faulty_disk import Death, FaultyDisk

REPOSITORY = Path(__file__).parents[2]
BATCHES = [range(4), range(4, 8), range(6, 12)]
ALL = set(range(12))
NEEDED = {0, 1, 2, 3, 4, 5}  # by a dataset: all of the first shard, half of the second, nothing of the third

PACK = "pack.h5"

NOTHING = (lambda: False, lambda: False)
CUTS = {  # does an unsynced name survive, does an unsynced block of bytes?
    "nothing": lambda dice: NOTHING,
    "names without their bytes": lambda dice: (lambda: True, lambda: False),
    "some of both": lambda dice: (lambda: dice.random() < 0.5,) * 2,
}


@pytest.fixture(scope="module", autouse=True)
def _each_shard_is_encoded_once():
    """Encoding touches no disk, and equal rows give equal bytes (test_shards): a handful of shards, not a thousand."""
    known = {}

    def encode(space, digests, taps):
        rows = ((name, values.dtype.str, values.tobytes()) for name, values in taps.items())
        key = (space, tuple(digests), *rows)
        if key not in known:
            known[key] = encode_shard(space, digests, taps)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "encode_shard", encode)
        yield


@pytest.fixture(scope="module")
def write_all(space, block_of, digests_of):
    """Do everything that changes a store; tell after each commit what is now promised."""

    def write(root, fs, promised):
        workspace = Workspace.open(root, fs=fs)
        store = FeatureWriter(workspace, space)
        store.write_canary(block_of([100]))
        with Claims(workspace, space) as claims:
            for numbers in BATCHES:
                claims.take(digests_of(numbers))
                store.append(block_of(numbers))
                store.commit()
                promised.update(numbers)
                claims.keep(())
        with FeatureWriter(workspace, replace(space, backbone="unneeded")) as other:
            other.append(block_of([50]))
        manifest = a_manifest(digests_of)
        write_manifest(workspace, manifest)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packs, "write_stream", partial(write_stream, staging=Staging(root, fs)))
            for num_images in (3, 6):  # a new one, and one that takes its place
                write_pack(store, manifest.images[:num_images], manifest.classes, root / PACK, ["top"])
                promised.add(PACK)
        promised &= {*NEEDED, PACK}  # the others may go from here on
        del store, other  # what is open is not touched
        collect(workspace, (), Limits(grace_seconds=0.0), delete=True)

    return write


def a_manifest(digests_of):
    images = tuple(Image(digest, f"{digest.hex()}.png", (0,), "train") for digest in digests_of(sorted(NEEDED)))
    return Manifest("pets", "/pets", ("cats",), images, num_files=len(images))


@pytest.fixture(scope="module")
def assert_kept(space, block_of, digests_of):
    """A fresh process finds no half of anything, reads what was promised, and can go on."""
    seen = set()

    def check(root, promised):
        state = contents(root), frozenset(promised)
        if state in seen:  # most calls change nothing that another process could see
            return
        seen.add(state)
        assert_whole(root)
        workspace = Workspace.open(root)
        store = FeatureWriter(workspace, space)
        kept = sorted(ALL - numbers_of(store.missing(digests_of(ALL)), digests_of))
        assert promised <= {*kept, *(path.name for path in root.glob(PACK))}
        for tap in space.taps:
            np.testing.assert_array_equal(store.read(digests_of(kept), tap.name), block_of(kept).taps[tap.name])
        canary = store.read_canary()
        assert canary is None or canary.digests == block_of([100]).digests
        with Claims(workspace, space) as claims:
            assert claims.take(digests_of(ALL)) == digests_of(ALL)
        with store:
            store.append(block_of(n for n in sorted(ALL) if n not in kept))
        assert store.missing(digests_of(ALL)) == []
        assert not workspace.quarantine.exists()

    return check


def contents(root):
    """Everything in a workspace, but for names that are made up anew each time."""
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    made_up = [path for path in files if path.parts[0] in ("staging", "claims")]
    named = {path: path.name == "FORMAT.json" or (root / path).read_bytes() for path in set(files).difference(made_up)}
    return frozenset(named.items()), frozenset(path.parts[0] for path in made_up)


def numbers_of(digests, digests_of):
    return {number for number in ALL if digests_of([number])[0] in set(digests)}


def assert_whole(root):
    """Whatever has its final name is complete, before anybody has repaired anything."""
    for path in root.glob("spaces/*/??/*.h5"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    for path in root.glob(PACK):
        open_pack(path).check()
    if not (root / "FORMAT.json").exists():
        return
    workspace = Workspace.open(root, create=False)
    for space in list_spaces(workspace):
        FeatureStore(workspace, space).read_canary()
    if found := find_dataset(workspace, "pets"):
        assert len(read_manifest(workspace, "pets", found.fingerprint).images) == len(NEEDED)


@pytest.fixture(scope="module")
def every_call(tmp_path_factory, write_all):
    """Number -> name of all calls of a run that nothing goes wrong in."""
    fs = FaultyDisk()
    write_all(tmp_path_factory.mktemp("count") / "workspace", fs, set())
    return {k: name for k, (name, _) in enumerate(fs.calls, start=1)}


def new_root(disk, k):
    """The place of a workspace, in a folder that was there before it."""
    folder = disk / str(k)
    folder.mkdir()
    return folder / "workspace"


def die(write_all, root, fs):
    """Run into a fault; returns what was promised before."""
    promised = set()
    with pytest.raises(Death):
        write_all(root, fs, promised)
    fs.end_process()
    return promised


# ── calls that fail ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("number", "torn"), [(errno.ENOSPC, False), (errno.EIO, True)])
def test_a_failed_call_is_an_error_and_nothing_promised_is_lost(disk, write_all, assert_kept, every_call, number, torn):
    ignored, sentences = set(), set()
    for k in itertools.count(1):
        root, promised = new_root(disk, k), set()
        # a disk that fills up takes a part of what is written first
        fs = FaultyDisk(k, OSError(number, os.strerror(number)), torn, bytes_per_write=2500)
        try:
            write_all(root, fs, promised)
            if fs.num_calls < k:
                break
            ignored.add(fs.calls[k - 1][1].suffix)
            assert promised == {*NEEDED, PACK}
        except ConflictError as error:
            sentences.add(str(error).partition(" /")[0])
        fs.end_process()
        assert_kept(root, promised)
        leftovers = list(root.glob("staging/*"))
        assert len(leftovers) <= 1  # one, where removing it was the call that failed
        shutil.rmtree(root.parent)
    assert k > len(every_call)
    assert sentences == {"Cannot write"}
    assert ignored <= {"", ".claim"}  # nothing depends on claims


def test_a_commit_that_failed_can_be_called_again(disk, space, block_of, assert_kept):
    for k in itertools.count(1):
        root, fs = new_root(disk, k), FaultyDisk(bytes_per_write=2500)
        store = FeatureWriter(Workspace.open(root, fs=fs), space)
        store.append(block_of(range(4)))
        fs.fail_at, fs.error = fs.num_calls + k, OSError(errno.EIO, "Input/output error")
        try:
            store.commit()
        except ConflictError:
            store.commit()
        else:
            break
        assert_kept(after_power_cut(fs, root, *NOTHING), set(range(4)))
    assert k > 10


# ── processes that die, and power cuts ───────────────────────────────────────────────────────────


def die_everywhere(disk, write_all, assert_kept, calls, cuts=(), **fault):
    """Let the process die at each call, and the power go at the same moment."""
    for k in calls:
        root, fs = new_root(disk, k), FaultyDisk(k, Death(), **fault)
        promised = die(write_all, root, fs)
        for cut in cuts:
            found = after_power_cut(fs, root, *CUTS[cut](random.Random(k)))
            assert_kept(found, promised)
            shutil.rmtree(found.parent)
        assert_kept(root, promised)
        shutil.rmtree(root.parent)


def after_power_cut(fs, root, name_survives, bytes_survive):
    here = root.parent
    there = here.with_name(f"{here.name} cut")
    fs.cut_power(here, there, name_survives, bytes_survive)
    return there / root.name


def test_a_process_may_die_or_the_power_may_go_before_any_call(disk, write_all, assert_kept, every_call):
    die_everywhere(disk, write_all, assert_kept, every_call, CUTS)


def test_a_process_may_die_within_any_write(disk, write_all, assert_kept, every_call):
    writes = [k for k, name in every_call.items() if name == "write"]
    assert len(writes) > 10
    die_everywhere(disk, write_all, assert_kept, writes, torn=True)


def test_the_power_may_go_after_a_dead_process_was_followed_by_another(
    disk, write_all, assert_kept, every_call, space, block_of, digests_of
):
    for k in [k for k, name in every_call.items() if name == "fsync_path"]:
        root, fs = new_root(disk, k), FaultyDisk(k, Death())
        die(write_all, root, fs)  # with a name that is not synced
        with FeatureWriter(Workspace.open(root, fs=fs), space) as store:
            missing = numbers_of(store.missing(digests_of(ALL)), digests_of)
            store.append(block_of(sorted(missing)))
        assert_kept(after_power_cut(fs, root, *NOTHING), ALL)


# ── these tests can fail ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("forgotten", "cut"),
    [("fsync", "names without their bytes"), ("fsync", "some of both"), ("fsync_path", "nothing")],
)
def test_a_protocol_that_does_not_sync_is_noticed(disk, write_all, assert_kept, every_call, forgotten, cut):
    with pytest.raises((AssertionError, ConflictError)):
        die_everywhere(disk, write_all, assert_kept, every_call, [cut], forgets={forgotten})


def test_a_protocol_that_renames_before_it_has_written_is_noticed(
    disk, write_all, assert_kept, every_call, monkeypatch
):
    @contextmanager
    def staged(chunks, folder, mode, fs):
        path = folder / f".{os.urandom(8).hex()}.part"
        descriptor = fs.open_exclusive(path, mode)
        yield path
        for chunk in chunks:
            fs.write(descriptor, chunk)
        fs.fsync(descriptor)
        os.close(descriptor)

    monkeypatch.setattr(atomic, "_staged", staged)
    with pytest.raises((AssertionError, ConflictError)):
        die_everywhere(disk, write_all, assert_kept, every_call)


# ── catalog and disk ─────────────────────────────────────────────────────────────────────────────


TWO = list(itertools.product([False, True], repeat=2))


@pytest.mark.parametrize("on_disk", TWO)
@pytest.mark.parametrize("in_catalog", TWO)
def test_catalog_and_disk_may_disagree_in_every_way(
    disk, space, block_of, digests_of, assert_kept, on_disk, in_catalog
):
    """Whichever of them a power cut or a copy has set back."""
    batches = [range(5), range(3, 8)]
    written = {}
    for number, numbers in enumerate(batches):
        workspace = Workspace.open(disk / f"store{number}")
        with FeatureWriter(workspace, space) as store:
            store.append(block_of(numbers))
        [(name, path)] = workspace.shards(space.id)
        written[name] = path.read_bytes()
    root = disk / "workspace"
    workspace = Workspace.open(root)

    def put(chosen):
        for (name, data), wanted in zip(written.items(), chosen, strict=True):
            path = workspace.shard(space.id, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if wanted:
                path.write_bytes(data)

    put(in_catalog)
    assert FeatureStore(workspace, space).num_stored == len(set().union(*itertools.compress(batches, in_catalog)))
    put(on_disk)
    assert_kept(root, set().union(*itertools.compress(batches, on_disk)))


# ── real processes ───────────────────────────────────────────────────────────────────────────────

WRITER = """
import hashlib, resource, sys
import numpy as np
import flows.cli.app as cli
from pipeline.types import FeatureBlock
from storage.features.writer import FeatureWriter
from storage.features.spaces import list_spaces
from storage.workspace import Workspace

def write():
    root, first, last, step, max_file_bytes = sys.argv[1], *map(int, sys.argv[2:])
    if max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    workspace = Workspace.open(root)
    [space] = list_spaces(workspace)
    store = FeatureWriter(workspace, space)
    print("ready", flush=True)
    sys.stdin.readline()
    for start in range(first, last, step):
        numbers = np.arange(start, start + step)
        taps = {
            tap.name: ((31 * numbers[:, None] + 7 * np.arange(tap.dim) + 3 * offset) % 2048).astype(np.float32)
            for offset, tap in enumerate(space.taps)
        }
        store.append(FeatureBlock(tuple(hashlib.sha256(b"%d" % n).digest() for n in numbers), taps))
        store.commit()
        print(start + step, flush=True)

cli.app = write  # errors leave as those of the command line do
cli.main()
"""


@pytest.fixture
def start_writer(space):
    running = []

    def start(root, first, last, step=4, max_file_bytes=0):
        write_space(Workspace.open(root), space)
        arguments = map(str, (root, first, last, step, max_file_bytes))
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def assert_all_there(space, block_of, digests_of):
    def check(root, num_rows):
        store = FeatureWriter(Workspace.open(root, create=False), space)
        assert store.missing(digests_of(range(num_rows))) == []
        for tap in space.taps:
            found = store.read(digests_of(range(num_rows)), tap.name)
            np.testing.assert_array_equal(found, block_of(range(num_rows)).taps[tap.name])
        assert not (root / "quarantine").exists()

    return check


def test_no_acknowledged_row_is_lost_to_kill_9(tmp_path, start_writer, assert_all_there):
    promised = 0
    for num_commits in range(1, 6):
        writer = start_writer(tmp_path, promised, promised + 10_000)
        go(writer)
        for _ in range(num_commits):
            promised = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        promised = max([promised, *map(int, writer.communicate()[0].split())])
        assert_all_there(tmp_path, promised)


def test_two_processes_may_write_the_same_images_at_once(tmp_path, start_writer, assert_all_there):
    writers = [start_writer(tmp_path, 0, 80), start_writer(tmp_path, 40, 120)]
    for writer in writers:
        go(writer)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert_all_there(tmp_path, 120)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, where we may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full_is_one_sentence_and_costs_nothing_committed(
    small_disk, start_writer, assert_all_there
):
    root, ballast = small_disk / "workspace", small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    promised = fill(start_writer(root, 0, 1_000_000, step=128))
    ballast.unlink()
    assert_all_there(root, promised)
    resume(start_writer(root, promised, promised + 256, step=128))
    assert_all_there(root, promised + 256)


@pytest.mark.parametrize("max_file_bytes", [4096, 65_536])  # a shard, or the catalog, finds no room
def test_a_file_that_may_not_grow_is_one_sentence_and_costs_nothing_committed(
    tmp_path, start_writer, assert_all_there, max_file_bytes
):
    resume(start_writer(tmp_path, 0, 128, step=128))
    promised = fill(start_writer(tmp_path, 128, 1_000_000, step=128, max_file_bytes=max_file_bytes), before=128)
    assert_all_there(tmp_path, promised)
    resume(start_writer(tmp_path, promised, promised + 256, step=128))
    assert_all_there(tmp_path, promised + 256)


def fill(writer, before=0):
    """Let it write until it cannot; returns how many rows it has committed."""
    output, errors = writer.communicate("\n")
    assert writer.returncode == 5
    assert errors.startswith("error: Cannot ")
    assert errors.count("\n") == 1
    return max(map(int, output.split()), default=before)


def resume(writer):
    writer.communicate("\n")
    assert writer.returncode == 0
