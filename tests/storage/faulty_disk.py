"""A disk that fails when it is told to, and that knows what a power cut would take.

Names and bytes are kept apart, as file systems do: bytes are safe once their file was synced, a name once its folder
was. Until then any part of either may survive, in any order.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

from storage.disk.atomic import Fs

BLOCK_BYTES = 512  # what a disk writes whole, at least


class Death(BaseException):
    """The process ends here: nothing that it would have done afterwards happens."""


@dataclass(eq=False)
class File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    given_up: bool = False  # a sync failed: the system forgot what was to be written, and will not say so again


class Folder:
    """A folder; what is in it are names of their own."""


class FaultyDisk(Fs):
    """Calls that change a disk, one of which fails.

    Parameters
    ----------
    fail_at
        Which call fails, counted from 1; 0 for none.
    error
        What it raises. After a `Death` every later call raises it too.
    torn
        A write that fails has written half of it.
    bytes_per_write
        The most that one write takes.
    forgets
        Names of calls that do nothing: a broken protocol, to see that it is noticed.
    """

    def __init__(self, fail_at=0, error=None, torn=False, bytes_per_write=None, forgets=()):
        self.calls = []  # (name, path)
        self.fail_at = fail_at
        self.error = error
        self._torn = torn
        self._bytes_per_write = bytes_per_write
        self._forgets = forgets
        self._dead = False
        self._open = {}  # descriptor -> file, path and identity
        self._nodes = {}  # path -> file or folder, as the running system sees it
        self._unsynced = defaultdict(list)  # folder -> [(path, node before, node after)]

    @property
    def num_calls(self):
        return len(self.calls)

    def end_process(self):
        """Close what a dead process had open, and let another one use the disk."""
        for descriptor, (_, _, identity) in self._open.items():
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), identity):
                    os.close(descriptor)
        self._open.clear()
        self._dead, self.fail_at = False, 0

    def _step(self, name, path):
        if self._dead:
            raise Death
        self.calls.append((name, path))
        if self.num_calls == self.fail_at:
            self._dead = isinstance(self.error, Death)
            raise self.error

    # ── the calls ────────────────────────────────────────────────────────────────────────────────

    def open_exclusive(self, path, mode):
        self._step("open", path)
        descriptor = super().open_exclusive(path, mode)
        file = File()
        self._open[descriptor] = (file, path, os.fstat(descriptor))
        self._name(path, file)
        return descriptor

    def write(self, descriptor, data):
        file, path, _ = self._open[descriptor]
        assert not file.given_up, "written after a sync of it had failed"
        try:
            self._step("write", path)
        except (Death, OSError):
            if self._torn:
                self._write(descriptor, data[: len(data) // 2])
            raise
        return self._write(descriptor, data[: self._bytes_per_write])

    def _write(self, descriptor, data):
        self._open[descriptor][0].data += data
        return super().write(descriptor, data)

    def fsync(self, descriptor):
        file, path, _ = self._open[descriptor]
        self._sync(file, "fsync", path)

    def fsync_path(self, path):
        if not path.is_dir():
            self._sync(self._node(path), "fsync_path", path)
            return
        self._step("fsync_path", path)
        if "fsync_path" not in self._forgets:
            self._unsynced.pop(path, None)

    def _sync(self, file, name, path):
        assert not file.given_up, "synced again after a sync of it had failed"
        try:
            self._step(name, path)
        except OSError:
            file.given_up = True
            raise
        if name not in self._forgets:
            file.synced = bytes(file.data)

    def rename(self, source, target):
        self._step("rename", target)
        node, _ = self._node(source), self._node(target)
        super().rename(source, target)
        self._name(target, node)
        self._name(source, None)

    def link(self, source, target):
        self._step("link", target)
        node = self._node(source)
        super().link(source, target)
        self._name(target, node)

    def unlink(self, path):
        self._step("unlink", path)
        self._node(path)
        super().unlink(path)
        self._name(path, None)

    def mkdir(self, folder):
        self._step("mkdir", folder)
        super().mkdir(folder)
        self._name(folder, Folder())

    def remove_tree(self, folder):
        """One call for everything in it: it may end halfway."""
        for path in sorted(folder.iterdir()):
            (self.remove_tree if path.is_dir() else self.unlink)(path)
        self._step("rmdir", folder)
        os.rmdir(folder)
        self._nodes.setdefault(folder, Folder())
        self._name(folder, None)

    def _node(self, path):
        """What a name stands for; what was there before us is safe."""
        if path not in self._nodes and path.is_file():
            data = path.read_bytes()
            self._nodes[path] = File(bytearray(data), data)
        return self._nodes.get(path)

    def _name(self, path, node):
        before = self._nodes.pop(path, None)
        if node is not None:
            self._nodes[path] = node
        self._unsynced[path.parent].append((path, before, node))

    # ── power cuts ───────────────────────────────────────────────────────────────────────────────

    def cut_power(self, here, there, name_survives, bytes_survive):
        """Copy a folder as it is found when the power is back.

        Parameters
        ----------
        name_survives, bytes_survive
            Called for every unsynced change of a name, and for every unsynced block of bytes.
        """
        shutil.copytree(here, there)
        found = {path: node for path, node in self._nodes.items() if _is_unsynced(node)}
        for changes in self._unsynced.values():
            state = {}
            for path, before, after in changes:
                state[path] = after if name_survives() else state.get(path, before)
            found |= state
        contents = {node: _what_survives(node, bytes_survive) for node in found.values() if isinstance(node, File)}
        for path, node in sorted(found.items()):
            if path.is_relative_to(here):
                _put(there / path.relative_to(here), node, contents)


def _is_unsynced(node):
    return isinstance(node, File) and node.data != node.synced


def _what_survives(file, survives):
    if not _is_unsynced(file):
        return file.synced
    size = len(file.data) if survives() else len(file.synced)
    kept = bytearray(size)
    kept[: len(file.synced)] = file.synced[:size]
    for start in range(0, size, BLOCK_BYTES):
        if survives():
            kept[start : start + BLOCK_BYTES] = file.data[start : min(start + BLOCK_BYTES, size)]
    return bytes(kept)


def _put(path, node, contents):
    if not path.parent.is_dir():  # gone, with everything that was in it
        return
    if isinstance(node, Folder):
        path.mkdir(exist_ok=True)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
        if node is not None:
            path.write_bytes(contents[node])
