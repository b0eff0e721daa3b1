"""Where similar ends and different begins, for one backbone after another: writes `pipeline/decision/thresholds.json`.

    python -m tests.benchmarks.thresholds --imagenet DIR --similar NAME=DIR ... --different NAME=DIR ... \
        [--neither NAME=DIR ...] --backbone B ...

The null are pictures that the backbones were trained on (ImageNet): the distance of random samples of them, by number
of pictures. A reference set's distance is the mean over samples of as many pictures as a plan measures. The rule, with
N the farthest of the similar sets and D the nearest of the different ones:

    similar_below   = N (D/N)^(1/4)        different_above = N (D/N)^(3/4)

rounded to hundredths of a nat: each kind keeps a quarter of the gap between them, in ratios, for sets that nobody has
seen yet, and the half between is nobody's, which a plan treats as different. It is refused where the two
kinds overlap, or where the null would not be similar. Sets of neither kind are references only. Backbones that are
not named keep what the file has of them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.onboarding.similarity import NUM_SAMPLED
from pipeline.backbones.table import get_backbone
from pipeline.dataset.split import position_of
from pipeline.decision.similarity import measure_layers
from pipeline.decision.thresholds import FILE, FORMAT, VERSION
from pipeline.engine.files import MOMENTS_FILE, read_statistics
from pipeline.errors import ImageError
from pipeline.fingerprint import digest
from pipeline.images.decode import decode, prepare
from pipeline.types import Array, BackboneSpec, LayerStatistics

NULL_SIZES = (25, 50, NUM_SAMPLED, 200)  # pictures
NUM_NULL = 500
NUM_DRAWS = 50
MOST_PICTURES = NUM_SAMPLED * 3 // 2  # of a reference set
BATCH = 16
KINDS = ("similar", "different", "neither")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def choose(folder: Path, most: int) -> list[Path]:
    """Choose pictures by content; where there is a train folder, below it."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(files, key=lambda path: position_of(digest(path.read_bytes()), "sample"))[:most]


def read_moments(paths: Sequence[Path], spec: BackboneSpec, engine: Any) -> Array:
    """Run pictures through a backbone: (pictures, 2 x channels)."""
    pixels = []
    for path in paths:
        try:
            pixels.append(prepare(decode(path.read_bytes(), spec.recipe), spec.recipe))
        except ImageError as error:
            print(f"left out {path}: {error}", file=sys.stderr)
    batches = [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    return np.concatenate([engine.run(batch)[spec.moments.name] for batch in batches])


def draw(statistics: Sequence[LayerStatistics], moments: Array, num: int, rng: np.random.Generator) -> list[float]:
    """Measure random samples of `num` pictures."""
    picks = [rng.permutation(len(moments))[:num] for _ in range(NUM_DRAWS)]
    return [float(measure_layers(statistics, moments[pick].mean(axis=0, dtype=np.float64)).mean()) for pick in picks]


def summary(distances: Sequence[float]) -> dict[str, float]:
    return {"mean": round(float(np.mean(distances)), 5), "deviation": round(float(np.std(distances)), 5)}


def limits(similar: Sequence[float], different: Sequence[float], null: float) -> tuple[float, float]:
    """Apply the rule."""
    farthest, nearest = max(similar), min(different)
    if farthest >= nearest:
        sys.exit(f"Similar and different sets overlap: {farthest:.4f} is not below {nearest:.4f}.")
    below, above = (round(farthest * (nearest / farthest) ** part, 2) for part in (0.25, 0.75))
    if not max(null, farthest) < below < above < nearest:
        sys.exit(f"{below} and {above} do not keep {null:.4f} (ImageNet), {farthest:.4f} and {nearest:.4f} apart.")
    return below, above


def measure_backbone(name: str, imagenet: Path, sets: dict[str, dict[str, Path]]) -> dict[str, Any]:
    """Measure the null and every set of every kind with one backbone."""
    from pipeline.engine.conversion import convert_backbone
    from pipeline.engine.openvino_engine import Engine

    spec = get_backbone(name)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        convert_backbone(spec, Path(folder))
        statistics = read_statistics(Path(folder))
        engine = Engine.load(Path(folder) / MOMENTS_FILE)
        null_moments = read_moments(choose(imagenet, NUM_NULL), spec, engine)
        null = {str(num): summary(draw(statistics, null_moments, num, rng)) for num in NULL_SIZES}
        references = {}
        for kind, paths in sets.items():
            for title, path in paths.items():
                moments = read_moments(choose(path, MOST_PICTURES), spec, engine)
                found = summary(draw(statistics, moments, min(NUM_SAMPLED, len(moments)), rng))
                references[title] = {"kind": kind, **found}
                print(f"{name:<20} {title:<20} {kind:<10} {found['mean']:.4f} ± {found['deviation']:.4f}", flush=True)
    means = [[row["mean"] for row in references.values() if row["kind"] == kind] for kind in KINDS[:2]]
    below, above = limits(*means, null[str(NUM_SAMPLED)]["mean"])
    references["imagenet"] = {"kind": "similar", **null[str(NUM_SAMPLED)]}
    return {
        "weights_sha256": spec.weights_sha256,
        "similar_below": below,
        "different_above": above,
        "null": null,
        "references": dict(sorted(references.items(), key=lambda item: item[1]["mean"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", required=True, type=Path)
    parser.add_argument("--similar", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--different", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--neither", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--backbone", nargs="+", required=True)
    arguments = parser.parse_args()
    sets = {kind: _parse_sets(getattr(arguments, kind)) for kind in KINDS}
    known = json.loads(FILE.read_text())["backbones"] if FILE.is_file() else {}
    for name in arguments.backbone:
        known[name] = measure_backbone(name, arguments.imagenet, sets)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "made_by": _command(sets, arguments.backbone),
        "num_images": NUM_SAMPLED,
        "rule": "similar_below = N (D/N)^(1/4), different_above = N (D/N)^(3/4), to hundredths; "
        "N: farthest similar set, D: nearest different one",
        "backbones": known,
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{shlex.quote(str(FILE))} written")


def _command(sets: dict[str, dict[str, Path]], backbones: Sequence[str]) -> str:
    """Spell out the command without this machine's folders."""
    parts = [f"--{kind} {' '.join(f'{name}=DIR' for name in paths)}" for kind, paths in sets.items() if paths]
    return " ".join(["python -m tests.benchmarks.thresholds --imagenet DIR", *parts, "--backbone", *backbones])


def _parse_sets(texts: Sequence[str]) -> dict[str, Path]:
    return {name: Path(path) for name, _, path in (text.partition("=") for text in texts)}


if __name__ == "__main__":
    main()
