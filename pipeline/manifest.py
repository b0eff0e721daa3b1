"""Files with digests to a manifest: labels, class order, one split per content, and what is odd about them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.split import position_of, split_of
from pipeline.types import Digest, FileEntry, Image, Manifest, Rejected, Split

# where one content is in several split folders, the one further right keeps it: test stays what its owner made
_PRECEDENCE: tuple[Split, ...] = ("train", "val", "test")
_SHOWN = 5  # examples in a note


@dataclass(frozen=True, slots=True)
class Picture:
    """A readable file: what the walk said of it, and its content."""

    entry: FileEntry
    digest: Digest


def build_manifest(
    dataset: str,
    root: str,
    pictures: Iterable[Picture],
    rejected: Sequence[Rejected] = (),
    notes: Sequence[str] = (),
) -> Manifest:
    """Build the manifest of a dataset.

    Byte-identical files become one image. An image under two labels is left out, because one of the labels
    is wrong. Where the folders have no split, a fifth of the contents is the test split.

    Raises
    ------
    DataError
        With fewer than two classes that have readable training pictures.
    """
    by_digest: dict[Digest, list[FileEntry]] = defaultdict(list)
    for picture in pictures:
        by_digest[picture.digest].append(picture.entry)
    num_files = sum(len(entries) for entries in by_digest.values())
    remarks = list(notes)

    conflicts = {digest for digest, entries in by_digest.items() if len({e.label for e in entries}) > 1}
    remarks += _conflict_notes([by_digest[digest] for digest in conflicts])
    single = {digest: entries for digest, entries in by_digest.items() if digest not in conflicts}
    remarks += _leak_notes(single)

    splits = _assign_splits(single)
    labels = {digest: entries[0].label for digest, entries in single.items()}
    classes = sorted({labels[digest] for digest, split in splits.items() if split == "train"})
    if len(classes) < 2:
        raise DataError(_too_few_classes(classes, num_files, len(conflicts), rejected))
    remarks += _untrained_notes(labels, set(classes))

    index = {name: number for number, name in enumerate(classes)}
    images = [
        Image(digest, min(entry.path for entry in entries), index[labels[digest]], splits[digest])
        for digest, entries in single.items()
        if labels[digest] in index
    ]
    return Manifest(
        dataset=dataset,
        root=root,
        classes=tuple(classes),
        images=tuple(sorted(images, key=lambda image: image.path)),
        rejected=tuple(rejected),
        num_files=num_files,
        num_duplicates=num_files - len(by_digest),
        notes=tuple(remarks),
    )


def _assign_splits(single: dict[Digest, list[FileEntry]]) -> dict[Digest, Split]:
    given = {
        digest: max((e.split for e in entries if e.split), key=_PRECEDENCE.index, default=None)
        for digest, entries in single.items()
    }
    if {"test", "val"} & {split for split in given.values() if split}:
        return {digest: split or "train" for digest, split in given.items()}
    splits = {digest: split_of(digest) for digest in single}
    return _with_every_class_trained(splits, {digest: e[0].label for digest, e in single.items()})


def _with_every_class_trained(splits: dict[Digest, Split], labels: dict[Digest, str]) -> dict[Digest, Split]:
    """Mend what chance does to tiny datasets: a class with no training picture, or no test picture at all."""
    members: dict[str, list[Digest]] = defaultdict(list)
    for digest in sorted(splits, key=lambda digest: position_of(digest, "split")):
        members[labels[digest]].append(digest)
    for digests in members.values():
        if all(splits[digest] != "train" for digest in digests):
            splits[digests[-1]] = "train"
    if "test" not in splits.values():
        spare = [digests[0] for digests in members.values() if len(digests) > 1]
        for digest in spare[:1]:
            splits[digest] = "test"
    return splits


def _conflict_notes(conflicts: list[list[FileEntry]]) -> list[str]:
    if not conflicts:
        return []
    return [f"{_count(len(conflicts), 'picture')} under two labels, left out: {_alike(conflicts)}."]


def _leak_notes(single: dict[Digest, list[FileEntry]]) -> list[str]:
    leaks = [entries for entries in single.values() if len({entry.split for entry in entries}) > 1]
    if not leaks:
        return []
    return [f"{_count(len(leaks), 'picture')} in more than one split, kept in test (or val) only: {_alike(leaks)}."]


def _alike(groups: list[list[FileEntry]]) -> str:
    """Spell out the first few groups of files with equal bytes."""
    paths = sorted(sorted(entry.path for entry in entries) for entries in groups)
    return "; ".join(" = ".join(group[:_SHOWN]) + _more(group) for group in paths[:_SHOWN]) + _more(paths)


def _untrained_notes(labels: dict[Digest, str], classes: set[str]) -> list[str]:
    untrained = Counter(label for label in labels.values() if label not in classes)
    return [
        f"Class '{label}' has no training picture: its {_count(number, 'picture')} left out."
        for label, number in sorted(untrained.items())
    ]


def _too_few_classes(classes: list[str], num_files: int, num_conflicts: int, rejected: Sequence[Rejected]) -> str:
    found = f"only class '{classes[0]}'" if classes else "no class"
    twice = f", {_count(num_conflicts, 'content')} left out for standing under two labels" if num_conflicts else ""
    bad = f" ({len(rejected)} files were rejected, first {rejected[0].path}: {rejected[0].reason})" if rejected else ""
    return (
        f"Of {num_files} readable pictures {found} can be trained on{bad}{twice}; a classifier needs at least two "
        "classes, each a folder with pictures."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _more(items: Sequence[object]) -> str:
    return f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
