import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from by_hand import at
from log_by_hand import SESSION, Writer, messages, picture, scene
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from bora_common import codec
from bora_common.codec_record import decode_entry, transition_bytes
from bora_common.errors import LogError
from bora_replay.cutter import cut, steps_of
from bora_replay.recorder import NS
from bora_replay.segments import SegmentReader
from bora_replay.steplog import StepLog, from_controller, read_episodes, same_transition, segment_paths, verify


def written(run_dir, count=3, **options):
    writer = Writer(run_dir, **options)
    for message in messages(count):
        writer.write(*message)
    writer.finish()
    return writer


def clean(result):
    return {k: result[k] for k in ('lost', 'duplicated', 'corrupt')} == {'lost': 0, 'duplicated': 0, 'corrupt': 0}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp('run')
    return run, written(run, 5)


def test_a_log_that_was_written_whole_verifies(finished):
    run, writer = finished
    assert verify(run) == {'transitions': len(writer.published), 'lost': 0, 'duplicated': 0, 'corrupt': 0, 'segments': 1}
    assert len(writer.published) == 12  # four episodes of three; the fifth is an evaluation


def test_the_logged_transitions_are_those_that_were_published(finished):
    run, writer = finished
    assert [t.seq for t in writer.published] == list(range(12))
    for t in writer.published:
        data = writer.log.transition(t.seq)
        assert same_transition(decode_entry('replay', 'bora_msgs/msg/Transition', data, SESSION.layout), t)
        assert t.image_ref == f'segment_00000.mcap:{t.stamp_ns}'
    assert writer.log.transition(12) is None


def test_any_mcap_tool_reads_it(finished):
    run, writer = finished
    with open(segment_paths(run)[0], 'rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        counts = reader.get_summary().statistics
        decoded = [(c.topic, m) for _, c, _, m in reader.iter_decoded_messages()]
    assert counts.message_count == len(decoded)
    transitions = [m for topic, m in decoded if topic == 'replay']
    assert [m.seq for m in transitions] == list(range(12))
    assert list(transitions[0].joint_names) == list(SESSION.joint_names)
    np.testing.assert_allclose(transitions[0].executed_positions, writer.published[0].executed.ravel())
    assert {m.format for topic, m in decoded if topic == 'frames/left'} == {'png'}
    assert [json.loads(m.data)['count'] for topic, m in decoded if topic == 'cut'] == [3, 3, 3, 3, 0]


def test_episodes_are_read_back(finished):
    run, _ = finished
    episodes = read_episodes(run)
    assert [e.event.episode for e in episodes] == [f'e-{n:04d}' for n in range(5)]
    assert [e.event.evaluation for e in episodes] == [False] * 4 + [True]
    assert [len(e.steps) for e in episodes] == [10, 11, 12, 13, 10]
    assert [e.logged for e in episodes] == [3, 3, 3, 3, 0]
    assert all(e.cut and e.ended for e in episodes)
    frames = episodes[1].strip('front', 2)
    assert [f.stamp_ns for f in frames] == [at(0) + 10 * NS, at(8) + 10 * NS]
    np.testing.assert_array_equal(frames[1].image(), picture(frames[1].stamp_ns))


def test_a_restart_goes_on_with_the_numbers_in_a_new_segment(tmp_path):
    first = written(tmp_path, 2)
    second = Writer(tmp_path)
    assert second.log.next_seq == len(first.published)
    for message in messages(2, first=2):
        second.write(*message)
    second.finish()
    assert [t.seq for t in first.published + second.published] == list(range(12))
    assert verify(tmp_path) == {'transitions': 12, 'lost': 0, 'duplicated': 0, 'corrupt': 0, 'segments': 2}
    assert second.log.transition(0) == first.log.transition(0)


def test_an_episode_goes_on_over_a_restart(tmp_path):
    everything = messages(2)
    half = len(everything) * 3 // 4
    first = Writer(tmp_path)
    for message in everything[:half]:
        first.write(*message)
    first.finish()  # the second episode runs: it stays open
    assert len(first.published) == 3 and verify(tmp_path)['lost'] == 0
    second = Writer(tmp_path)
    for message in everything:  # publishers deliver their history again
        second.write(*message)
    second.finish()
    assert len(second.published) == 3
    whole = tmp_path / 'whole'
    reference = written(whole, 2)
    for a, b in zip(first.published + second.published, reference.published, strict=True):
        assert same_transition(dataclasses.replace(a, image_ref=''), dataclasses.replace(b, image_ref=''))
    assert clean(verify(tmp_path)) and verify(tmp_path)['transitions'] == 6


def test_what_was_committed_survives_a_process_that_dies(tmp_path):
    writer = Writer(tmp_path, commit_every=10)
    for message in messages(1)[:60]:
        writer.write(*message)
    del writer  # nothing is finished or flushed
    assert len(read_episodes(tmp_path)[0].record.executed) >= 40
    assert verify(tmp_path) == {'transitions': 0, 'lost': 0, 'duplicated': 0, 'corrupt': 0, 'segments': 1}


def test_a_log_cut_off_at_any_byte_opens_and_goes_on(tmp_path):
    written(tmp_path / 'a', 1, commit_every=10)
    data = segment_paths(tmp_path / 'a')[0].read_bytes()
    (tmp_path / 'b/log').mkdir(parents=True)
    path = tmp_path / 'b/log/segment_00000.mcap'
    for length in random.Random(1).sample(range(len(data)), 8):
        path.write_bytes(data[:length])
        for extra in segment_paths(tmp_path / 'b')[1:]:
            extra.unlink()
        writer = Writer(tmp_path / 'b')
        for message in messages(1):
            writer.write(*message)
        writer.finish()
        result = verify(tmp_path / 'b')
        assert clean(result) and result['transitions'] == 3, (length, result)


def test_damage_before_the_tail_is_reported_and_the_rest_is_read(tmp_path):
    written(tmp_path, 3, commit_every=10)
    path = segment_paths(tmp_path)[0]
    data = bytearray(path.read_bytes())
    whole = len(list(SegmentReader(path)))
    chunk = sorted({e.offset for e in SegmentReader(path)})[4]
    for place in (chunk + 3, chunk + 60):  # the length, and the content
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        reader = SegmentReader(path)
        assert whole - 20 <= len(list(reader)) < whole
        assert reader.damage.corrupt == 1
        assert verify(tmp_path)['corrupt'] >= 1
    writer = Writer(tmp_path)  # it still opens
    writer.finish()


def test_lost_duplicated_and_changed_transitions_are_found(tmp_path):
    transitions = cut(scene(0).record())

    def log_of(name, logged):
        writer = Writer(tmp_path / name)
        for message in messages(1):
            writer.write(*message)
        closed = writer.recorder.close('e-0000', 0)
        assert len(closed.transitions) == len(transitions)
        writer.log.append_cut(dataclasses.replace(closed, transitions=logged(closed.transitions)), at(20))
        writer.log.close()
        return verify(tmp_path / name)

    assert clean(log_of('good', lambda t: t))
    assert log_of('lost', lambda t: [t[0], t[2]])['lost'] == 1
    assert log_of('twice', lambda t: [*t, t[1]])['duplicated'] == 1
    assert log_of('changed', lambda t: [t[0], dataclasses.replace(t[1], reward=t[1].reward + 1), t[2]])['corrupt'] == 1


def test_an_ended_episode_that_was_never_cut_is_lost(tmp_path):
    writer = Writer(tmp_path)
    for message in messages(1):
        writer.write(*message)
    writer.log.close()
    assert verify(tmp_path)['lost'] == 3
    Writer(tmp_path).finish()  # a new start cuts it
    assert clean(verify(tmp_path)) and verify(tmp_path)['transitions'] == 3


def test_another_robot_or_step_is_refused(tmp_path):
    written(tmp_path, 1)
    for changes, text in (({'dt': 0.1}, 'dt is'), ({'joint_names': ('x', 'y', 'z')}, 'joint_names'), ({'task': 'other'}, 'task is')):
        with pytest.raises(LogError, match=text):
            StepLog(tmp_path, dataclasses.replace(SESSION, **changes))


def test_a_run_without_a_log_is_an_error(tmp_path):
    with pytest.raises(LogError, match='no segment'):
        verify(tmp_path)
    assert read_episodes(tmp_path) == []


def test_large_segments_are_split(tmp_path):
    writer = Writer(tmp_path)
    writer.log._max_segment_bytes = 20_000
    for message in messages(3):
        writer.write(*message)
    writer.finish()
    assert len(segment_paths(tmp_path)) > 2
    assert clean(verify(tmp_path)) and verify(tmp_path)['transitions'] == 9


def test_a_killed_recorder_loses_nothing_that_its_publishers_still_hold(tmp_path):
    """SIGKILL at random moments, then a start from where the log ends, with the publishers' history delivered again."""
    rng = random.Random(5)
    script = Path(__file__).parent / 'log_by_hand.py'
    for _ in range(3):
        child = subprocess.Popen([sys.executable, str(script), str(tmp_path), '3'], stdout=subprocess.PIPE, text=True, cwd=script.parent)
        lines = rng.randrange(1, 7)
        for _ in range(lines):
            child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
    done = subprocess.run([sys.executable, str(script), str(tmp_path), '3'], capture_output=True, text=True, cwd=script.parent, check=True)
    assert done.stdout.endswith('done\n')
    result = verify(tmp_path)
    assert clean(result) and result['transitions'] == 9 and result['segments'] == 4


def test_the_controllers_own_record_gives_the_same_count(finished):
    run, _ = finished
    for logged in read_episodes(run):
        ticks = logged.record.executed
        stamps = np.array([t.stamp_ns for t in ticks])
        positions = np.stack([t.positions for t in ticks])
        again = cut(from_controller(logged.record, stamps, positions))
        expected = cut(logged.record)
        assert len(again) == len(expected)
        assert all(same_transition(a, b) for a, b in zip(again, expected, strict=True))
        fewer = dataclasses.replace(logged.record, executed=ticks[:5])  # a log that lost ticks does not hide what was executed
        assert len(cut(from_controller(fewer, stamps, positions))) == len(expected)


def test_a_hold_of_one_instant_counts_in_the_controllers_record_too(finished):
    """The watchdog holds and the command that it missed comes in the same tick: the controller keeps the command, the log both."""
    run, _ = finished
    for logged in read_episodes(run):
        ticks = list(logged.record.executed)
        stamps = np.array([t.stamp_ns for t in ticks])
        positions = np.stack([t.positions for t in ticks])
        middle = len(ticks) // 2
        held = dataclasses.replace(ticks[middle], held=True, hold_reason='command: silent')
        record = dataclasses.replace(logged.record, executed=[*ticks[:middle], held, *ticks[middle:]])
        assert any(s.held for s in steps_of(record)) and not any(s.held for s in steps_of(logged.record))
        again = from_controller(record, stamps, positions)
        assert [s.held for s in steps_of(again)] == [s.held for s in steps_of(record)]
        assert len(cut(again)) == len(cut(record))


def test_transitions_keep_their_tokens_to_half_precision():
    t = cut(scene(0).record())[0]
    layout = SESSION.layout
    again = decode_entry('replay', 'bora_msgs/msg/Transition', transition_bytes(t, layout), layout)
    assert same_transition(again, t)
    np.testing.assert_array_equal(again.tokens, t.tokens.astype(np.float16).astype(np.float32))
    assert codec.decode_transition(codec.encode_transition(t, layout), layout).seq == t.seq
