"""The manifest of a dataset: labels, class order, one split for each content, and notes about oddities."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.dataset.split import position_of, split_of
from pipeline.errors import DataError
from pipeline.types import Digest, FileEntry, Image, Manifest, Rejected, Split

# if one content is in several split folders, the one further right keeps it: test stays what its owner made
_PRECEDENCE: tuple[Split, ...] = ("train", "val", "test")
_SHOWN = 5  # examples in a note


@dataclass(frozen=True, slots=True)
class Picture:
    """A readable file: its entry in the listing, and its content."""

    entry: FileEntry
    digest: Digest


def build_manifest(
    dataset: str,
    root: str,
    pictures: Iterable[Picture],
    rejected: Sequence[Rejected] = (),
    notes: Sequence[str] = (),
    exclusive: bool = True,
) -> Manifest:
    """Build the manifest of a dataset.

    Byte-identical files become one image. An image whose files disagree on its labels is left out, because some
    of them are wrong. If the source has no split, a fifth of the contents becomes the test split.

    Parameters
    ----------
    exclusive
        Every picture has exactly one label; else any number, and one label is enough to learn.

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

    conflicts = {digest for digest, entries in by_digest.items() if len({e.labels for e in entries}) > 1}
    remarks += _conflict_notes([by_digest[digest] for digest in conflicts], exclusive)
    single = {digest: entries for digest, entries in by_digest.items() if digest not in conflicts}
    remarks += _leak_notes(single)

    splits = _assign_splits(single)
    labels = {digest: entries[0].labels for digest, entries in single.items()}
    classes = sorted({label for digest, split in splits.items() if split == "train" for label in labels[digest]})
    if len(classes) < (2 if exclusive else 1):
        raise DataError(_too_few_classes(classes, num_files, len(conflicts), rejected, exclusive))
    remarks += _untrained_notes(labels, set(classes), exclusive)

    index = {name: number for number, name in enumerate(classes)}
    known = {digest: tuple(sorted(index[name] for name in names if name in index)) for digest, names in labels.items()}
    images = [
        Image(digest, min(entry.path for entry in entries), known[digest], splits[digest])
        for digest, entries in single.items()
        if known[digest] or not exclusive
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
        exclusive=exclusive,
    )


def _assign_splits(single: dict[Digest, list[FileEntry]]) -> dict[Digest, Split]:
    given = {
        digest: max((e.split for e in entries if e.split), key=_PRECEDENCE.index, default=None)
        for digest, entries in single.items()
    }
    if {"test", "val"} & {split for split in given.values() if split}:
        return {digest: split or "train" for digest, split in given.items()}
    splits = {digest: split_of(digest) for digest in single}
    return _with_every_class_trained(splits, {digest: e[0].labels for digest, e in single.items()})


def _with_every_class_trained(
    splits: dict[Digest, Split], labels: dict[Digest, tuple[str, ...]]
) -> dict[Digest, Split]:
    """Mend what chance does to tiny datasets: a class with no training picture, or no test picture at all."""
    members: dict[str, list[Digest]] = defaultdict(list)
    in_order = sorted(splits, key=lambda digest: position_of(digest, "split"))
    for digest in in_order:
        for label in labels[digest]:
            members[label].append(digest)
    for digests in members.values():
        if all(splits[digest] != "train" for digest in digests):
            splits[digests[-1]] = "train"
    if "test" not in splits.values():
        for digest in in_order:
            if labels[digest] and all(len(members[label]) > 1 for label in labels[digest]):
                splits[digest] = "test"
                break
    return splits


def _conflict_notes(conflicts: list[list[FileEntry]], exclusive: bool) -> list[str]:
    if not conflicts:
        return []
    under = "under two labels" if exclusive else "with different labels"
    return [f"{_count(len(conflicts), 'picture')} {under}, left out: {_alike(conflicts)}."]


def _leak_notes(single: dict[Digest, list[FileEntry]]) -> list[str]:
    leaks = [entries for entries in single.values() if len({entry.split for entry in entries}) > 1]
    if not leaks:
        return []
    return [f"{_count(len(leaks), 'picture')} in more than one split, kept in test (or val) only: {_alike(leaks)}."]


def _alike(groups: list[list[FileEntry]]) -> str:
    """Spell out the first few groups of files with equal bytes."""
    paths = sorted(sorted(entry.path for entry in entries) for entries in groups)
    return "; ".join(" = ".join(group[:_SHOWN]) + _more(group) for group in paths[:_SHOWN]) + _more(paths)


def _untrained_notes(labels: dict[Digest, tuple[str, ...]], classes: set[str], exclusive: bool) -> list[str]:
    untrained = Counter(label for names in labels.values() for label in names if label not in classes)
    done = "its {} left out" if exclusive else "taken off its {}"
    return [
        f"Class '{label}' has no training picture: {done.format(_count(number, 'picture'))}."
        for label, number in sorted(untrained.items())
    ]


def _too_few_classes(
    classes: list[str], num_files: int, num_conflicts: int, rejected: Sequence[Rejected], exclusive: bool
) -> str:
    found = f"only class '{classes[0]}'" if classes else "no class"
    twice = f", {_count(num_conflicts, 'content')} left out for standing under two labels" if num_conflicts else ""
    bad = f" ({len(rejected)} files were rejected, first {rejected[0].path}: {rejected[0].reason})" if rejected else ""
    return (
        f"Of {num_files} readable pictures {found} can be trained on{bad}{twice}; a classifier needs at least "
        f"{'two classes' if exclusive else 'one label'} with training pictures, by folders or by a table."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _more(items: Sequence[object]) -> str:
    return f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
