"""One update of a value model, from targets to gradient: the same for the critic of tokens and for the decoupled one."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_critic import targets
from bora_critic.critic import Critic, CriticSpec
from bora_critic.decoupled import DecoupledCritic, PixelEncoder, soft_arg_max
from bora_critic.losses import critic_loss, valid_actions, value_loss
from bora_critic.value_model import follow, target_of

B, K, D, T, W, S = 5, 4, 3, 2, 5, 16
GAMMA, EXPECTILE = 0.9, 0.7
KINDS = ('returns', 'chunk', 'shifted')


def critic(k=K):
    spec = CriticSpec('m', ('a', 'b', 'c'), ('front', 'cognition'), W, k, 1 / 15, (0.0,) * D, (0.1,) * D, hidden=16)
    return Critic(spec)


def decoupled(k=K):
    return DecoupledCritic(('left', 'front'), ('a', 'b', 'c'), k, hidden=16, width=8)


MODELS = pytest.mark.parametrize('make', [critic, decoupled])


def experience(seed, k=K):
    """Random chunks of 1 to k valid steps; some end in a terminal."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    def images():
        return torch.randint(0, 256, (B, 2, S, S, 3), dtype=torch.uint8, generator=rng)

    count = torch.randint(1, k + 1, (B,), generator=rng)
    mask = torch.arange(k) < count.unsqueeze(1)
    done = targets.last_valid(mask) & (torch.rand(B, 1, generator=rng) < 0.5)
    return {
        'now': {'tokens': normal(B, T, W), 'images': images()}, 's': normal(B, D), 'a': normal(B, k, D), 'mask': mask, 'done': done,
        'reward': normal(B, k), 'returns': normal(B, k), 'next': {'tokens': normal(B, T, W), 'images': images()}, 'next_s': normal(B, D),
    }  # fmt: skip


def loss_of(model, target, x, kind):
    """L_Q + L_V as method section 4 writes them, on all steps."""
    mask, a = x['mask'], valid_actions(x['a'], x['mask'])
    with torch.no_grad():
        following = target.v(target.features(x['next']), x['next_s'], torch.tensor([0]))[:, 0]
        now = target.features(x['now'])
        if kind == 'returns':
            y = goal = x['returns']
        else:
            goal = target.q(now, x['s'], a).amin(0)
            y = targets.chunk(x['reward'], x['done'], mask, following, GAMMA)
        if kind == 'shifted':
            v = target.v(now, x['s'])
            after = torch.cat([v[:, 1:], v[:, -1:]], 1)
            y = targets.shifted(x['reward'], x['done'], targets.last_valid(mask), after, following, GAMMA)
    features = model.features(x['now'])
    loss_q, _ = critic_loss(model.q(features, x['s'], a), y, mask)
    loss_v, _ = value_loss(model.v(features, x['s']), goal, mask, 0.5 if kind == 'returns' else EXPECTILE)
    return loss_q + loss_v


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(a, b):
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], atol=1e-5) for n in a)


def pair(make, k=K):
    """A model and a target of other weights."""
    torch.manual_seed(0)
    return make(k), target_of(make(k))


@MODELS
@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), poison=st.sampled_from([float('nan'), float('inf'), 1e20]))
def test_padding_reaches_neither_loss_nor_gradient(make, kind, seed, poison):
    model, target = pair(make)
    clean, dirty = experience(seed), experience(seed)
    padding = ~dirty['mask']
    for name in ('a', 'reward', 'returns'):
        dirty[name][padding] = poison
    dirty['done'] = dirty['done'] | padding
    losses = [loss_of(model, target, x, kind) for x in (clean, dirty)]
    assert torch.isfinite(losses[1])
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    assert same(gradients(model, losses[0]), gradients(model, losses[1]))


@MODELS
@pytest.mark.parametrize('kind', KINDS)
def test_the_order_of_a_batch_does_not_matter(make, kind):
    model, target = pair(make)
    x, order = experience(1), torch.tensor([3, 0, 4, 1, 2])
    y = {n: {m: t[order] for m, t in v.items()} if isinstance(v, dict) else v[order] for n, v in x.items()}
    first, second = loss_of(model, target, x, kind), loss_of(model, target, y, kind)
    assert first.item() == pytest.approx(second.item(), rel=1e-5)
    assert same(gradients(model, first), gradients(model, second))


@MODELS
@pytest.mark.parametrize('kind', ['chunk', 'shifted'])
def test_chunks_of_one_step_are_implicit_q_learning(make, kind):
    """k = 1: L_Q = mean (q - r - g (1-d) v'(s'))^2 and L_V = mean |tau - 1[u<0]| u^2 with u = min q'(s,a) - v(s)."""
    model, target = pair(make, 1)
    x = experience(2, 1)
    assert x['mask'].all()
    q = model.q(model.features(x['now']), x['s'], x['a'])[..., 0]
    v = model.v(model.features(x['now']), x['s'])[:, 0]
    v_next = target.v(target.features(x['next']), x['next_s'])[:, 0]
    u = target.q(target.features(x['now']), x['s'], x['a'])[..., 0].min(0).values - v
    y = x['reward'][:, 0] + GAMMA * (1 - x['done'][:, 0].float()) * v_next
    expected = (q - y).square().mean() + ((EXPECTILE - (u < 0).float()).abs() * u.square()).mean()
    assert loss_of(model, target, x, kind).item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_gradient_goes_back_into_the_vlm():
    model, target = pair(critic)
    x = experience(3)
    x['now']['tokens'].requires_grad_()
    loss_of(model, target, x, 'chunk').backward()
    assert x['now']['tokens'].grad is None


def test_the_decoupled_critic_trains_its_own_encoder_and_reads_no_token():
    model, target = pair(decoupled)
    x = experience(4)
    del x['now']['tokens'], x['next']['tokens']
    grad = gradients(model, loss_of(model, target, x, 'chunk'))
    assert grad.keys() == dict(model.named_parameters()).keys()
    assert all(g.abs().sum() > 0 for name, g in grad.items() if name.startswith('encoder'))
    for other in ({'images': x['now']['images'].float()}, {'images': x['now']['images'][:, :1]}):
        with pytest.raises(ValueError, match='expected uint8'):
            model.features(other)


def test_both_have_the_same_shapes_and_heads():
    x = experience(5)
    shapes = []
    for model in (critic(), decoupled()):
        features = model.features(x['now'])
        steps = torch.tensor([0, 2])
        q, v = model.q(features, x['s'], x['a']), model.v(features, x['s'])
        assert torch.allclose(model.q(features, x['s'], x['a'], steps), q[..., steps], atol=1e-6)
        assert torch.allclose(model.v(features, x['s'], steps), v[:, steps], atol=1e-6)
        shapes.append((q.shape, v.shape))
    assert shapes == [((2, B, K), (B, K))] * 2


def test_the_decoupled_critic_comes_to_see_what_the_pixels_say():
    """A bright square left or right decides the return."""
    torch.manual_seed(0)
    model, rng = decoupled(1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        right = torch.rand(32, generator=rng) < 0.5
        images = torch.zeros(32, 2, S, S, 3, dtype=torch.uint8)
        images[~right, :, 4:8, 2:6] = 255
        images[right, :, 4:8, 10:14] = 255
        v = model.v(model.features({'images': images}), torch.zeros(32, D))
        loss, _ = value_loss(v, right.float().unsqueeze(1), torch.ones(32, 1), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert v[right].min() > 0.8 > 0.2 > v[~right].max()


def test_the_encoder_has_one_token_a_camera():
    encoder = PixelEncoder(8)
    images = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    tokens = encoder(images)
    assert tokens.shape == (2, 3, 8)
    assert torch.allclose(encoder(images[:1, 1:2])[0, 0], tokens[0, 1], atol=1e-5)  # each camera by itself


def test_soft_arg_max_by_hand():
    maps = torch.full((1, 1, 3, 5), -100.0)
    maps[0, 0, 2, 1] = 100.0
    assert soft_arg_max(maps).tolist() == [[-0.5, 1.0]]
    assert torch.allclose(soft_arg_max(torch.zeros(1, 1, 3, 5)), torch.zeros(1, 2), atol=1e-6)


def test_a_target_follows_and_takes_no_gradient():
    model = critic()
    target = target_of(model)
    start = copy.deepcopy(target.state_dict())
    assert not any(p.requires_grad for p in target.parameters())
    assert not target.training
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    follow(target, model, 0.25)
    for name, p in target.named_parameters():
        assert torch.allclose(p, start[name] + 0.25, atol=1e-6)
