"""Checkpoints of the released implementation compute here what they compute there."""

from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.parity import outputs

FIXTURES = sorted(path.parent for path in Path(__file__).parents[1].glob("fixtures/*/io.npz"))


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_every_array_is_reproduced(folder, scan_layers):
    found, expected = outputs(folder, scan_layers)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4, err_msg=name)
