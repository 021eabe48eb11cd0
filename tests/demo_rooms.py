"""Demo rooms on disk, as scans in ScanNet's form."""

from vsgrpo.scans.demo.source import write_demo_labels, write_room


def write_rooms(root, num_scenes, preset="easy", seed=0, **size):
    """Write rooms 0 to `num_scenes` - 1 of `seed` with their label table; return the scan ids."""
    write_demo_labels(root)
    return [write_room(root, index, preset, seed, **size) for index in range(num_scenes)]
