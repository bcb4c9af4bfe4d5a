"""The simulated judge marks each episode once, by the truth of that episode's scene."""

from __future__ import annotations

from bora_sim.referee import Referee


def running(episode='a', seed=7, started=100):
    referee = Referee()
    referee.on_episode(episode, True, seed, started)
    return referee


def test_success_is_marked_once():
    referee = running()
    assert referee.on_truth(101, 7, False, False) is None
    assert referee.on_truth(102, 7, True, False) is True
    assert referee.on_truth(103, 7, True, False) is None


def test_failure_is_marked_as_failure_and_success_wins():
    assert running().on_truth(101, 7, False, True) is False
    assert running().on_truth(101, 7, True, True) is True


def test_the_last_scene_and_times_before_the_start_do_not_count():
    referee = running()
    assert referee.on_truth(101, 6, True, False) is None
    assert referee.on_truth(99, 7, True, False) is None
    assert referee.on_truth(100, 7, True, False) is True


def test_outside_a_running_episode_nothing_is_marked():
    assert Referee().on_truth(101, -1, True, False) is None
    referee = running()
    referee.on_episode('a', False, 7, 100)
    assert referee.on_truth(101, 7, True, False) is None


def test_a_repeated_running_event_does_not_open_a_judged_episode_again():
    referee = running()
    assert referee.on_truth(101, 7, True, False) is True
    referee.on_episode('a', True, 7, 100)
    assert referee.on_truth(102, 7, True, False) is None
    referee.on_episode('b', True, 8, 200)
    assert referee.on_truth(201, 8, True, False) is True


def test_a_mark_that_could_not_be_made_is_made_at_the_next_truth():
    referee = running()
    assert referee.on_truth(101, 7, True, False) is True
    referee.refused()
    assert referee.on_truth(102, 7, True, False) is True
