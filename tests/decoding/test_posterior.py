"""One product with the head for rows that choose a token and rows that are tested equals a product for each."""

from __future__ import annotations

import pytest
import torch

from surelock.decoding.posterior import HiddenPair, joint_posteriors, posteriors
from surelock.decoding.proposal import RowParams
from surelock.ops.head_logits import Head


@pytest.mark.parametrize("may_sample", [False, True])
def test_the_joint_product_gives_each_row_its_own_posterior(may_sample: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    head = Head(torch.randn(50, 8, generator=generator))
    proposed = torch.randn(5, 8, generator=generator)
    hidden = torch.randn(3, 8, generator=generator)
    # The divergence is not symmetric, so swapped rows show.
    tested = HiddenPair(hidden, hidden + torch.randn(3, 8, generator=generator))
    index = torch.arange(5)
    rows = RowParams(index, index, index, torch.full((5,), 0.7), torch.zeros(5, dtype=torch.bool))
    token, confidence, kl = posteriors(proposed, rows, tested, head, 49, may_sample=may_sample)
    joint_token, joint_confidence, joint_kl = joint_posteriors(proposed, rows, tested, head, 49, may_sample=may_sample)
    assert joint_token.tolist() == token.tolist()
    torch.testing.assert_close(joint_confidence, confidence)
    torch.testing.assert_close(joint_kl.kl, kl.kl)
    torch.testing.assert_close(joint_kl.uncertainty, kl.uncertainty)
