"""A table of pictures with several labels, from pictures with one: `python -m tests.benchmarks.multilabel FOLDER OUT`.

FOLDER has a train and a test folder of class folders. Every picture of OUT is a square of four fields, each empty or
with a picture of FOLDER; its labels are the classes that are in it: none to four. Training pictures are made of
training pictures only, each of FOLDER's is used once at most, so that held-out pictures are new in all their parts, and
OUT/NAME.csv says which is which. Then: `headstart onboard OUT/NAME.csv`.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from pathlib import Path

from PIL import Image, ImageOps

FIELD = 112  # pixels
PLACES = ((0, 0), (FIELD, 0), (0, FIELD), (FIELD, FIELD))
NUM_SHOWN = {0: 5, 1: 25, 2: 35, 3: 25, 4: 10}  # pictures in a square -> how often, in percent
TEST_SHARE = 0.25


def compose(paths: list[Path], rng: random.Random) -> Image.Image:
    """Put pictures into fields by chance; what is empty keeps the square's own colour."""
    square = Image.new("RGB", (2 * FIELD, 2 * FIELD), tuple(rng.choices(range(256), k=3)))
    for path, place in zip(paths, rng.sample(PLACES, len(paths)), strict=True):
        with Image.open(path) as picture:
            field = ImageOps.fit(picture.convert("RGBA"), (FIELD, FIELD))
            square.paste(field, place, mask=field)
    return square


def write_split(folder: Path, split: str, num_pictures: int, out: Path) -> list[list[str]]:
    """Write the pictures of a split; returns their rows of the table."""
    rng = random.Random(split)
    sources = {label.name: sorted(label.iterdir()) for label in sorted((folder / split).iterdir())}
    for paths in sources.values():
        rng.shuffle(paths)
    (out / split).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_pictures):
        (num_shown,) = rng.choices(list(NUM_SHOWN), list(NUM_SHOWN.values()))
        labels = rng.choices(list(sources), k=num_shown)
        path = out / split / f"{number:05d}.jpg"
        if any(labels.count(label) > len(sources[label]) for label in labels):
            sys.exit(f"{folder} has too few pictures for more than {number} of split {split}; ask for fewer.")
        compose([sources[label].pop() for label in labels], rng).save(path, quality=92)
        rows.append([str(path.relative_to(out)), "|".join(sorted(set(labels))), split])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Make pictures with several labels, and their table.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--pictures", type=int, default=2000)
    arguments = parser.parse_args()
    num_test = round(TEST_SHARE * arguments.pictures)
    rows = write_split(arguments.folder, "train", arguments.pictures - num_test, arguments.out)
    rows += write_split(arguments.folder, "test", num_test, arguments.out)
    table = arguments.out / f"{arguments.folder.name}.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "labels", "split"], *rows])
    print(table)


if __name__ == "__main__":
    main()
