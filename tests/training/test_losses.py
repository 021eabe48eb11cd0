"""Counts of live rows, by hand."""

import pytest

from vsgrpo.training.losses import LiveCounts, microbatches_of_update

# 2 processes, 3 microbatches of 4 rows on each: 8, 4 (one process has none) and 2 live rows.
COUNTS = LiveCounts(rows=(8, 4, 2), processes=(2, 1, 1), tokens=50, rows_per_microbatch=8, num_processes=2)


@pytest.mark.parametrize(
    ("loss", "microbatches", "scale"),
    [
        ("grpo", [0], 1.0),
        ("grpo", [0, 1], 16 / 12),  # 16 rows, of which 12 are live
        ("dr_grpo", [0, 1, 2], 24 / 14),
        ("luspo", [2], 8 / 2),
        ("sapo", [1], 8 / 4),
        ("bnpo", [0, 1, 2], 6 / 4),  # 6 local batches, of which 4 have a live row
        ("dapo", [0, 1, 2], 1.0),  # divided by the tokens of live rows already
    ],
)
def test_a_loss_is_scaled_to_its_live_rows(loss, microbatches, scale):
    assert COUNTS.scale(loss, microbatches) == pytest.approx(scale, rel=1e-12)


def test_an_update_without_live_rows_keeps_its_loss_of_zero():
    assert LiveCounts((0,), (0,), 0, 8, 2).scale("grpo", [0]) == 1.0


@pytest.mark.parametrize(
    ("step", "start", "length", "per_buffer", "expected"),
    [
        (0, 0, 2, 2, [0, 1]),  # update = buffer
        (5, 4, 2, 4, [0, 1]),  # the first half of the second buffer
        (7, 6, 2, 4, [2, 3]),
        (3, 2, 2, 3, [0]),  # microbatches 2 and 3, of two buffers
        (2, 2, 2, 3, [2]),
        (9, 8, 1, 2, [0]),  # an epoch's last update, shorter than the others
        (5, 4, 4, 2, [0, 1]),  # an update of two buffers
    ],
)
def test_the_microbatches_of_an_update_within_a_buffer(step, start, length, per_buffer, expected):
    assert [*microbatches_of_update(step, start, length, per_buffer)] == expected
