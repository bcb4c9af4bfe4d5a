"""Terms of the actor's loss: hand-computed cases and properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_trainer.losses import (
    aligned_weight,
    anchor_loss,
    bc_loss,
    chunk_value,
    improve_loss,
    l2_loss,
    literal_weight,
    own_weight,
    q_loss,
    supported_weight,
    within_reach,
)
from bora_trainer.schedules import ALPHA, IMITATION, Ramp


def test_chunk_value_is_the_masked_mean():
    q, mask = torch.tensor([[1.0, 3.0, 50.0], [7.0, 7.0, 7.0]]), torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert chunk_value(q, mask).tolist() == [2.0, 0.0]


def test_q_and_improve_by_hand():
    rows = torch.tensor([True, True, False])
    assert q_loss(torch.tensor([1.0, 3.0, 100.0]), rows)[0].item() == -2.0
    base, final = torch.tensor([1.0, 1.0, 9.0]), torch.tensor([0.5, 2.0, 0.0])
    assert improve_loss(base, final, 0.0, rows)[0].item() == 0.25
    assert improve_loss(base, final, 0.5, rows)[0].item() == 0.5


def test_improve_moves_the_final_value_only():
    base, final = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    improve_loss(base, final, 0.0, torch.ones(2))[0].backward()
    assert base.grad is None
    assert final.grad.tolist() == [-0.5, -0.5]


def test_distances_by_hand():
    a, b = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 3.0], [5.0, 5.0]]])
    weight = torch.tensor([[1.0, 0.0]])
    assert bc_loss(a, b, weight)[0].item() == 5.0
    assert anchor_loss(a, b, weight)[0].item() == 5.0
    assert l2_loss(b, weight)[0].item() == 5.0
    assert bc_loss(a, b, torch.tensor([[1.0, 0.25]]))[0].item() == (5 + 0.25 * 25) / 1.25


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([float('nan'), float('inf'), -1e20]))
def test_padding_reaches_no_term(seed, poison):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(3, 5, 2, generator=rng), torch.randn(3, 5, 2, generator=rng)
    mask = torch.arange(5).expand(3, 5) < 3
    dirty = torch.where(mask.unsqueeze(-1), b, torch.full_like(b, poison))
    for term in (bc_loss, anchor_loss):
        own = a.clone().requires_grad_()
        loss, _ = term(own, dirty, mask)
        loss.backward()
        assert loss.item() == term(a, b, mask)[0].item()
        assert torch.isfinite(own.grad).all()
        assert own.grad[~mask].abs().sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 1000))
def test_terms_do_not_depend_on_the_order_of_rows(order, seed):
    rng = torch.Generator().manual_seed(seed)
    a, b, weight = torch.randn(4, 3, 2, generator=rng), torch.randn(4, 3, 2, generator=rng), torch.rand(4, 3, generator=rng)
    order = torch.tensor(order)
    assert bc_loss(a[order], b[order], weight[order])[0].item() == pytest.approx(bc_loss(a, b, weight)[0].item(), rel=1e-5)


def test_targets_are_clipped_to_reach_and_dropped_beyond():
    base, reach = torch.zeros(1, 3, 2), torch.tensor([1.0, 2.0])
    target = torch.tensor([[[0.5, -1.0], [1.5, -3.0], [9.0, 0.0]]])
    clipped, keep = within_reach(target, base, reach, 4.0)
    assert clipped.tolist() == [[[0.5, -1.0], [1.0, -2.0], [1.0, 0.0]]]
    assert keep.tolist() == [[True, True, False]]


def test_own_steps_weigh_by_advantage_where_the_value_is_low():
    advantage, low, high = torch.tensor([-0.2, 0.0, 0.2, 9.0]), torch.zeros(4), torch.ones(4)
    weights = own_weight(advantage, low, 0.2, 5.0, 0.5, 0.01)
    assert torch.allclose(weights, torch.tensor([0.3679, 1.0, 2.7183, 5.0]), atol=1e-3)
    assert torch.allclose(own_weight(advantage, high, 0.2, 5.0, 0.5, 0.01), torch.ones(4), atol=1e-3)


def sides():
    """Rows: offline success, offline failure, online with a takeover at step 1."""
    decided = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]]).bool()
    human = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 1]]).bool()
    beta = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0.5, 1.0]])
    return decided, human, beta, torch.tensor([True, True, False]), torch.tensor([True, False, True])


def test_the_papers_weights():
    assert literal_weight(*sides()).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0.5, 0]]


def test_supported_weights_add_the_policys_own_steps():
    own = torch.tensor([9.0, 9.0, 0.25])
    assert supported_weight(*sides(), own).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0.5, 0]]
    assert supported_weight(*sides(), own, 0.5).tolist() == [[0.5, 0.5, 0.5], [0, 0, 0], [0, 0.5, 0]]


def test_own_steps_count_unless_a_takeover_follows_them():
    human = torch.tensor([[False, False, True, False], [False, False, False, False]])
    row = torch.zeros(2, dtype=torch.bool)
    weight = supported_weight(torch.ones(2, 4), human, human.float(), row, ~row, torch.tensor([0.5, 0.25]))
    assert weight.tolist() == [[0, 0, 1, 0.5], [0.25, 0.25, 0.25, 0.25]]


def test_schedules_are_fractions_of_the_planned_updates():
    assert [Ramp(0.0, 1.0, 0.5).at(t, 100) for t in (-1, 0, 25, 50, 100)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    for planned in (15_000, 600):
        assert ALPHA.at(0, planned) == 0.2
        assert ALPHA.at(planned * 4 // 15, planned) == pytest.approx(0.75)
        assert IMITATION.at(planned * 2 // 3, planned) == pytest.approx(1.0)


def test_aligned_chunks_count_whole_or_not_at_all():
    matched = torch.tensor([[1, 1, 1, 0]] * 4).bool()
    human = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    offline, own = torch.tensor([0, 0, 0, 1]).bool(), torch.full((4,), 0.5)
    expected = [[1, 1, 1, 0], [0.5, 0.5, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert aligned_weight(matched, human, offline, own).tolist() == expected
