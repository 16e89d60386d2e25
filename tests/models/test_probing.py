"""A model is after a probe what it was before."""

import torch

from lmplay_tui.models.probing import Kept


def test_a_table_that_a_pass_has_made_longer_stays():
    """The model may have noted how long it is: it would read behind its end."""
    model = torch.nn.Module()
    model.register_buffer("table", torch.arange(3))
    model.register_buffer("mean", torch.zeros(3))
    kept = Kept(model)
    model.table, model.mean = torch.arange(8), torch.ones(3)
    kept.restore()
    assert model.table.tolist() == list(range(8)) and model.mean.tolist() == [0, 0, 0]
