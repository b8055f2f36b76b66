"""Bicubic resizing of tables, against PyTorch's numbers."""

import numpy as np

from sarwmix_jax.conversion.resize import cubic_matrix, resize_table, resize_tables
from tests.support import golden, published_weights


def test_golden_tables():
    expected = golden("resize_128_to_256")
    tensors = published_weights("finetune_tiny")
    changed = resize_tables(tensors, 256, (16, 16, 16, 8))
    assert len(changed) == 6
    block = "encoder/stages/{}/blocks/0/attention/bias_table"
    np.testing.assert_allclose(tensors["encoder/position"], expected["absolute_pos_embed"][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(tensors[block.format(0)], expected["table_s0"], rtol=0, atol=5e-6)
    np.testing.assert_allclose(tensors[block.format(3)], expected["table_s3"], rtol=0, atol=5e-6)


def test_the_same_size_changes_nothing():
    tensors = published_weights("pretrain_tiny")
    before = dict(tensors)
    assert resize_tables(tensors, 128, (8, 8, 8, 4)) == []
    assert all(tensors[name] is before[name] for name in before)


def test_weights_by_hand():
    for old, new in ((4, 8), (15, 31), (32, 96), (31, 15), (1, 3)):
        np.testing.assert_allclose(cubic_matrix(old, new).sum(axis=1), 1)
    # Doubling: new samples lie a quarter of a step from old ones; the cubic with -0.75 at 1.25, 0.25, 0.75, 1.75.
    np.testing.assert_array_equal(
        cubic_matrix(8, 16)[9, 2:8], [0, -0.10546875, 0.87890625, 0.26171875, -0.03515625, 0][:6]
    )


def test_a_constant_stays():
    np.testing.assert_allclose(resize_table(np.full((49, 3), 2.5, np.float32), 15), 2.5, rtol=1e-6)
