"""Demo rooms as ScanNet-like roots, and configs to build them."""

import shutil

from demo_rooms import write_rooms
from vsgrpo.config.compose import load_config


def demo_config(out, *overrides, scenes=4, workers=1):
    common = [f"source.num_scenes={scenes}", f"build.num_workers={workers}", f"output={out}"]
    return load_config("build_data", ["experiment=demo_data", *common, *overrides])


def row_bytes(out):
    return [(out / f"{name}.jsonl").read_bytes() for name in ("train", "dev")]


def scannet_like(root, names):
    """Demo rooms under ScanNet names: the reader and the leak rules see real ids."""
    ids = write_rooms(root / "rooms", len(names), preset="easy", seed=3)
    (root / "scans").mkdir(parents=True)
    for old, new in zip(ids, names, strict=True):
        folder = root / "scans" / new
        shutil.copytree(root / "rooms" / "scans" / old, folder)
        for path in list(folder.iterdir()):
            path.rename(folder / path.name.replace(old, new))
    label_file = "scannetv2-labels.combined.tsv"
    shutil.copy(root / "rooms" / label_file, root / label_file)
    return root


def scannet_config(root, out, *overrides):
    given = [f"source.root={root}", f"output={out}", "build.num_workers=1", "spatial.alpha_points=voxel5cm"]
    return load_config("build_data", [*given, *overrides])
