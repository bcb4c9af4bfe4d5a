"""Demonstration files as a step log, and what can be cut from it."""

import re
from pathlib import Path

import numpy as np
import pytest

from bora_common.errors import ConfigError, LogError
from bora_common.robot import TaskSpec
from bora_common.types import ArbiterState, Outcome, Proposal, Source
from bora_replay.cutter import cut, steps_of
from bora_replay.demonstrated import observations, proposed, write
from bora_replay.steplog import Session, read_episodes, same_transition, verify

JOINTS, CAMERAS, LIMIT, K = ('joint0', 'joint1', 'joint2'), ('left', 'front'), 20, 8
SESSION = Session('robot', JOINTS, 'press', LIMIT, 1 / 15, CAMERAS)
TASK = TaskSpec('press', 'press it', LIMIT, np.zeros(3), failure_ends=False)
CLEAN = {'lost': 0, 'duplicated': 0, 'corrupt': 0}


def fields(seed, steps, success=True, **changes):
    rng = np.random.default_rng(seed)
    motion = {n: rng.normal(size=(steps, 3)).astype(np.float32) for n in ('proprio', 'executed', 'intended')}
    return {
        'task': 'press', 'seed': seed, 'poor': seed % 2 == 1, 'success': success, 'start': rng.normal(size=3).astype(np.float32),
        'images': rng.integers(0, 256, (steps, 2, 8, 8, 3), dtype=np.uint8), 'cameras': CAMERAS, 'joints': JOINTS, **motion, **changes,
    }  # fmt: skip


def saved(folder: Path, values) -> Path:
    path = folder / f'{values["task"]}_{int(values["seed"]):06d}.npz'
    np.savez_compressed(path, **{n: np.asarray(v) for n, v in values.items()})
    return path


def propose(observations, epoch, ids):
    """A model whose tokens and chunks follow from what it sees."""
    return [
        Proposal(
            o.stamp_ns, np.tile(o.proprio + 0.5, (K, 1)), 1 / 15, np.full((2, 4), o.images.mean(), np.float32),
            ('camera_left', 'cognition'), o.proprio, 'model', epoch, o.episode, o.id, each,
        )
        for o, each in zip(observations, ids, strict=True)
    ]  # fmt: skip


@pytest.fixture(scope='module')
def demos():
    return [fields(3, 12), fields(4, LIMIT, success=False), fields(5, 9)]


@pytest.fixture(scope='module')
def files(tmp_path_factory, demos):
    return [saved(tmp_path_factory.mktemp('demos'), values) for values in demos]


@pytest.fixture(scope='module')
def bare(tmp_path_factory, files):
    """A log without a model."""
    run = tmp_path_factory.mktemp('runs') / 'bare'
    write(run, SESSION, TASK, files)
    return run


@pytest.fixture(scope='module')
def full(tmp_path_factory, files):
    """A log with the proposals of a model at every fourth frame."""
    run = tmp_path_factory.mktemp('runs') / 'full'
    return run, write(run, SESSION, TASK, files, propose, stride=4)


def test_with_a_model_the_log_holds_transitions_and_verifies(full):
    run, written = full
    assert [(w.name, w.success, w.steps, w.transitions) for w in written] == [
        ('press_000003', True, 12, 3), ('press_000004', False, 20, 5), ('press_000005', True, 9, 3),
    ]  # fmt: skip
    assert verify(run) == {'transitions': 11, **CLEAN, 'segments': 1}
    assert [(e.logged, e.cut, e.ended) for e in read_episodes(run)] == [(3, True, True), (5, True, True), (3, True, True)]


def test_cut_transitions_hold_what_the_files_hold(full, demos):
    for episode, demo in zip(read_episodes(full[0]), demos, strict=True):
        steps, transitions = len(demo['executed']), cut(episode.record)
        assert len(transitions) == -(-steps // 4)
        for t, begin in zip(transitions, range(0, steps, 4), strict=True):
            assert t.n == min(K, steps - begin)
            np.testing.assert_array_equal(t.executed[: t.n], demo['executed'][begin : begin + t.n])
            np.testing.assert_array_equal(t.proprio, demo['proprio'][begin])
            np.testing.assert_array_equal(t.next_proprio, demo['proprio'][min(begin + K, (steps - 1) // 4 * 4)])
            last = begin + t.n == steps
            assert t.done.any() == (last and demo['success']) and t.truncated == (last and not demo['success'])
            reward = -t.n / LIMIT + float(last and demo['success'])
            assert t.reward.sum() == pytest.approx(reward) and t.success == demo['success']
            assert t.human[: t.n].all() and (t.beta[: t.n] == 1).all() and not t.human[t.n :].any()
            assert (t.first, t.alpha, t.model_id) == (0, 0.0, 'model')
            assert t.image_ref == f'segment_00000.mcap:{t.stamp_ns}'


def test_an_episode_is_a_persons_from_first_to_last_and_named_by_task_and_seed(full, demos):
    for episode, demo in zip(read_episodes(full[0]), demos, strict=True):
        event = episode.event
        assert (event.episode, event.task, event.seed) == (f'press_{demo["seed"]:06d}', 'press', demo['seed'])
        assert (event.instruction, event.robot) == ('press it', 'robot')
        assert event.outcome == (Outcome.SUCCESS if demo['success'] else Outcome.TIMEOUT)
        assert event.reason == ('poor demonstration' if demo['poor'] else 'demonstration')
        assert len(episode.steps) == episode.human_steps == len(demo['executed'])
        assert not any(s.held for s in episode.steps) and {s.source for s in episode.steps} == {Source.HUMAN}
        assert episode.takeovers == 0
        assert [i.state for i in episode.record.interventions] == [ArbiterState.HUMAN, ArbiterState.HOLD]
        assert episode.reward == pytest.approx(float(demo['success']) - len(demo['executed']) / LIMIT)
        np.testing.assert_array_equal(episode.record.executed[0].positions, demo['start'])


def test_without_a_model_there_is_nothing_to_cut_and_nothing_lost(bare, demos):
    assert verify(bare) == {'transitions': 0, **CLEAN, 'segments': 1}
    for episode, demo in zip(read_episodes(bare), demos, strict=True):
        assert episode.cut and episode.ended and not episode.logged and not episode.record.proposals
        sent = [t for t in episode.record.executed if t.source == Source.HUMAN]
        np.testing.assert_array_equal(np.stack([t.positions for t in sent]), demo['executed'])
        np.testing.assert_array_equal(np.stack([t.requested for t in sent]), demo['intended'])


def test_a_model_can_propose_later_from_what_the_log_holds(bare, full, demos):
    for episode, at_once, demo in zip(read_episodes(bare), read_episodes(full[0]), demos, strict=True):
        seen = observations(episode, SESSION.layout, CAMERAS)
        np.testing.assert_array_equal(np.stack([o.images for o in seen]), demo['images'])
        np.testing.assert_array_equal(np.stack([o.proprio for o in seen]), demo['proprio'])
        some = seen[::4]
        record = proposed(episode, propose(some, 0, [p.id for p in at_once.record.proposals]))
        later, before = cut(record), cut(at_once.record)
        assert len(later) == len(before)
        for a, b in zip(later, before, strict=True):
            assert same_transition(a, type(b)(**{**b.__dict__, 'image_ref': a.image_ref}))
        np.testing.assert_array_equal(np.stack([s.intended for s in steps_of(record)]), demo['intended'])


def test_proposals_that_begin_later_are_refused(bare):
    episode = read_episodes(bare)[0]
    with pytest.raises(LogError, match='press_000003: no proposal at its first frame'):
        proposed(episode, propose(observations(episode, SESSION.layout, CAMERAS)[4:5], 0, [episode.event.id]))


def test_joints_and_cameras_are_mapped_by_name(tmp_path, demos):
    demo = demos[0]
    turned = {n: demo[n][..., ::-1] for n in ('proprio', 'executed', 'intended', 'start')}
    path = saved(tmp_path, {**demo, **turned, 'joints': JOINTS[::-1], 'cameras': CAMERAS[::-1], 'images': demo['images'][:, ::-1]})
    write(tmp_path / 'run', SESSION, TASK, [path])
    seen = observations(read_episodes(tmp_path / 'run')[0], SESSION.layout, CAMERAS)
    np.testing.assert_array_equal(np.stack([o.images for o in seen]), demo['images'])
    np.testing.assert_array_equal(np.stack([o.proprio for o in seen]), demo['proprio'])


@pytest.mark.parametrize('failed,outcome', [(True, Outcome.FAILURE), (False, Outcome.TIMEOUT)])
def test_an_end_without_success_is_terminal_only_where_it_was_a_failure(tmp_path, failed, outcome):
    write(tmp_path / 'run', SESSION, TASK, [saved(tmp_path, {**fields(1, 7, success=False), 'failure': failed})], propose)
    (episode,) = read_episodes(tmp_path / 'run')
    (transition,) = cut(episode.record)
    assert episode.event.outcome == outcome
    assert (bool(transition.done[6]), transition.truncated) == (failed, not failed)


@pytest.mark.parametrize(
    'changes,text',
    [
        ({'executed': np.zeros((5, 3), np.float32)}, r'executed of shape \(5, 3\), expected \(12, 3\)'),
        ({'proprio': np.full((12, 3), np.nan, np.float32)}, 'proprio: position of a joint is not finite'),
        ({'joints': ('joint0', 'joint1', 'elbow')}, 'joint "joint2" is missing'),
        ({'cameras': ('left', 'top')}, 'camera "front" is missing'),
        ({'images': np.zeros((12, 2, 8, 8), np.uint8)}, r'images uint8 \(12, 2, 8, 8\)'),
        ({'images': np.zeros((12, 2, 8, 8, 3), np.float32)}, 'images float32'),
        ({'task': 'pull'}, 'task "pull", the log is of press'),
        ({'start': np.zeros(2, np.float32)}, '3 joint names but values of shape'),
        ({'seed': np.array([1, 2])}, 'not a demonstration'),
        ({'images': np.array([{}], dtype=object)}, 'not a demonstration'),
    ],
)
def test_a_bad_file_is_named_and_leaves_no_log(tmp_path, files, demos, changes, text):
    bad = tmp_path / 'bad.npz'
    np.savez_compressed(bad, **{n: np.asarray(v) for n, v in {**demos[0], **changes}.items()})
    with pytest.raises(ConfigError, match=re.escape(str(bad)) + '.*' + text):
        write(tmp_path / 'run', SESSION, TASK, [files[1], bad])
    assert [p.name for p in tmp_path.iterdir()] == ['bad.npz']


@pytest.mark.parametrize('content', [b'', b'not a zip', None])
def test_a_file_that_is_no_demonstration_is_named(tmp_path, files, content):
    bad = tmp_path / 'bad.npz'
    bad.write_bytes(files[0].read_bytes()[:-900] if content is None else content)
    with pytest.raises(ConfigError, match='bad.npz: not a demonstration'):
        write(tmp_path / 'run', SESSION, TASK, [bad])


def test_an_episode_twice_is_refused(tmp_path, files):
    with pytest.raises(ConfigError, match='press_000003 again'):
        write(tmp_path / 'run', SESSION, TASK, [files[0], files[0]])


def test_a_folder_in_use_is_left_alone(tmp_path, files):
    (tmp_path / 'run').mkdir()
    write(tmp_path / 'run', SESSION, TASK, files[:1])  # an empty one is taken
    before = sorted(p.name for p in tmp_path.rglob('*'))
    with pytest.raises(ConfigError, match='not empty'):
        write(tmp_path / 'run', SESSION, TASK, files[1:])
    assert sorted(p.name for p in tmp_path.rglob('*')) == before and verify(tmp_path / 'run')['segments'] == 1


def test_a_stride_beyond_the_chunk_is_refused(tmp_path, files):
    with pytest.raises(ConfigError, match=f'every {K + 1} steps, but it holds {K}'):
        write(tmp_path / 'run', SESSION, TASK, files, propose, stride=K + 1)
    with pytest.raises(ConfigError, match='at least 1'):
        write(tmp_path / 'run', SESSION, TASK, files, propose, stride=0)


def test_many_proposals_find_their_own_chunks(tmp_path, files):
    """Numbers of observations and of proposals overlap; a chunk is found by either."""
    write(tmp_path / 'run', SESSION, TASK, files, propose, stride=2)
    for episode in read_episodes(tmp_path / 'run'):
        by_id = {p.id: p for p in episode.record.proposals}
        assert len(by_id) == len(episode.record.chunks)
        assert not {c.observation_id for c in episode.record.chunks} & set(by_id)
        assert all(by_id[c.base_id].stamp_ns == c.stamp_ns for c in episode.record.chunks)
    assert verify(tmp_path / 'run')['transitions'] == 6 + 10 + 5
