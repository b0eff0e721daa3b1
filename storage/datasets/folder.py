"""A user's folder of images, listed and never touched: DIR/class/image or DIR/{train,val,test}/class/image.

Nothing is opened here but folders: a pipe or a device named like a picture would block or worse.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError, NotFoundError
from pipeline.types import FileEntry, Rejected, Split

SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IGNORED = {"__macosx", "thumbs.db", "desktop.ini"}  # in lower case; what operating systems leave behind
MAX_NAMED = 5  # names that a note or an error spells out

_Identity = tuple[int, int]  # device, inode

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Listing(NamedTuple):
    """What a folder holds, or a table lists; every list sorted by path."""

    files: list[FileEntry]
    rejected: list[Rejected]
    notes: list[str]
    exclusive: bool = True  # every file has exactly one label


class _Node(NamedTuple):
    """A visible name in a folder; links are followed."""

    name: str
    path: str  # absolute
    status: os.stat_result
    is_link: bool

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def identity(self) -> _Identity:
        return self.status.st_dev, self.status.st_ino


def list_dataset(root: Path | str) -> Listing:
    """List the files of a dataset folder by class and, if it has them, by split.

    Raises
    ------
    NotFoundError
        There is no such folder.
    DataError
        It is no folder, cannot be read, or does not hold at least two classes with files.
    """
    walk = _Walk(os.path.abspath(root))
    top = walk.open_root()
    folders = [node for node in top if node.is_folder]
    splits = [SPLITS.get(node.name.lower()) for node in folders]
    if "train" in splits and None not in splits:
        walk.num_strays += len(top) - len(folders)
        for split, folder in zip(splits, folders, strict=True):
            walk.add_classes(split, walk.nodes(folder.path), above={folder.identity})
    else:
        walk.add_classes(None, top, above=set())
    walk.check()
    return walk.listing()


class _Walk:
    def __init__(self, root: str) -> None:
        self.num_strays = 0  # files beside the class folders
        self._root = root
        self._prefix_length = len(os.path.join(root, ""))
        self._files: list[FileEntry] = []
        self._rejected: list[Rejected] = []
        self._classes: dict[Split | None, list[str]] = defaultdict(list)

    def open_root(self) -> list[_Node]:
        try:
            status = os.stat(self._root)
            if not stat.S_ISDIR(status.st_mode):
                raise DataError(f"{self._root} is no folder; {self._wanted()}.")
            os.scandir(self._root).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"There is no folder {self._root}.") from error
        except OSError as error:
            raise DataError(f"{self._root} cannot be read: {error.strerror}.") from error
        self._identity = status.st_dev, status.st_ino
        return list(self.nodes(self._root))

    def nodes(self, folder: str) -> Iterator[_Node]:
        """Yield what is in a folder by name; what cannot be looked at is rejected."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self._reject(folder, f"folder cannot be read: {error.strerror}")
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in IGNORED:
                continue
            try:
                yield _Node(entry.name, entry.path, entry.stat(), entry.is_symlink())
            except OSError as error:
                broken = entry.is_symlink() and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
                self._reject(entry.path, "broken link" if broken else f"cannot be read: {error.strerror}")

    def add_classes(self, split: Split | None, nodes: Iterable[_Node], above: set[_Identity]) -> None:
        """Take every folder as a class, but none twice; a link in it to one of those `above` it is not followed."""
        nodes = list(nodes)
        folders = [node for node in nodes if node.is_folder]
        self.num_strays += len(nodes) - len(folders)
        taken = {folder.identity: folder.name for folder in folders if not folder.is_link}
        for folder in folders:
            if folder.is_link and folder.identity in taken:
                # as a class of its own it would put every picture under two labels
                self._reject(folder.path, f"link to class folder '{taken[folder.identity]}'")
                continue
            taken.setdefault(folder.identity, folder.name)
            self._classes[split].append(folder.name)
            self._add_class(split, folder, seen={self._identity, *above, folder.identity})

    def _add_class(self, split: Split | None, folder: _Node, seen: set[_Identity]) -> None:
        unvisited = [folder.path]
        while unvisited:
            for node in self.nodes(unvisited.pop()):
                if stat.S_ISREG(node.status.st_mode):
                    path, status = node.path[self._prefix_length :], node.status
                    self._files.append(FileEntry(path, status.st_size, status.st_mtime_ns, split, (folder.name,)))
                elif not node.is_folder:
                    self._reject(node.path, f"not a file but {kind_of(node.status)}")
                elif node.identity in seen:
                    self._reject(node.path, "link to a folder that is above it or was already visited")
                else:
                    seen.add(node.identity)
                    unvisited.append(node.path)

    def _reject(self, path: str, reason: str) -> None:
        self._rejected.append(Rejected(path[self._prefix_length :], reason))

    def check(self) -> None:
        """Raise DataError unless a classifier can be trained on what was found."""
        learnable = {entry.label for entry in self._files if entry.split in (None, "train")}
        if len(learnable) > 1:
            return
        if learnable:
            (only,) = learnable
            raise DataError(
                f"{self._root} has only one class with training files: '{only}'; "
                "a classifier needs at least two. "
                f"If the classes are folders inside it, name {os.path.join(self._root, only)} instead."
            )
        if not any(self._classes.values()) and self.num_strays:
            raise DataError(f"{self._root}: found {self.num_strays} files but no class folders; {self._wanted()}.")
        raise DataError(f"{self._root}: found no files to train on; {self._wanted()}.")

    def listing(self) -> Listing:
        return Listing(
            files=sorted(self._files, key=lambda entry: entry.path),
            rejected=sorted(self._rejected, key=lambda rejected: rejected.path),
            notes=list(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        filled = {(entry.split, entry.label) for entry in self._files}
        if self.num_strays:
            files = "1 file is" if self.num_strays == 1 else f"{self.num_strays} files are"
            yield f"{files} left out, outside any class folder."
        for split, labels in self._classes.items():
            where = f" in {split}" if split else ""
            if empty := [label for label in labels if (split, label) not in filled]:
                yield f"Class folders without files{where}: {_some(empty)}."
            if unlearnt := [
                label
                for label in labels
                if split in ("val", "test") and (split, label) in filled and ("train", label) not in filled
            ]:
                yield f"Classes{where} that are not in train: {_some(unlearnt)}."
        yield from alike_notes({label for _, label in filled})

    def _wanted(self) -> str:
        return f"wanted {self._root}/class/image.jpg or {self._root}/train/class/image.jpg"


def kind_of(status: os.stat_result) -> str:
    """Say what something that is no regular file is."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


def alike_notes(labels: Iterable[str]) -> Iterator[str]:
    """Name the classes that may have been meant to be one."""
    alike = defaultdict(set)
    for label in labels:
        alike[unicodedata.normalize("NFC", label).casefold()].add(label)
    for names in sorted(sorted(names) for names in alike.values() if len(names) > 1):
        yield f"Classes whose names differ only in case or spelling: {_some(names)}."


def _some(names: Collection[str]) -> str:
    """Spell out the first few names."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(f"'{name}'" for name in list(names)[:MAX_NAMED]) + more
