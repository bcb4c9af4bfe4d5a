"""The episode keeper as a node: services in, the episode's event log out, the scene's reset behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from bora_common import topics
from bora_common.codec import decode_intervention, encode_episode, stamp_to_ns
from bora_common.node import BoraNode, interface, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot, load_task
from bora_hil.episode_keeper import EpisodeError, EpisodeKeeper, Events, KeeperSettings
from bora_hil.labels import RewardScheme

_DEFAULT = KeeperSettings()


class EpisodeKeeperNode(BoraNode):
    """Keeps one episode at a time; see the core for the order of its states."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('task_config', 'press_button', 'task: a file or a name in config/tasks'),
        Parameter('run', '', 'first part of every episode id; empty: the time of the start'),
        Parameter('scene_reset', 'manual', 'who resets the scene', choices=('manual', 'simulator')),
        Parameter('rate', 100.0, 'of the check for time-outs, on ROS time', 'Hz', 1.0, 1000.0),
        Parameter('dt', _DEFAULT.dt, 'length of a step', 's', 0.001, 1.0),
        Parameter('late_mark_time', _DEFAULT.late_mark_time, 'time after the end in which a mark changes the outcome', 's', 0.0, 60.0),
        Parameter('reset_timeout', _DEFAULT.reset_timeout, 'for the start pose, and again for the scene', 's', 1.0, 3600.0),
        Parameter('scene_timeout', 20.0, 'for the answer of the simulator, steady clock', 's', 0.1, 600.0),
        Parameter('ready_time', _DEFAULT.ready_time, 'between READY and RUNNING', 's', 0.0, 10.0),
        Parameter('reward_success', _DEFAULT.rewards.success, 'reward of a success', '', 0.0, 100.0),
        Parameter('reward_intervention', _DEFAULT.rewards.intervention, "on the policy's last step before a takeover", '', -100.0, 0.0),
        Parameter('reward_recovery', _DEFAULT.rewards.recovery, 'on the last human step of a charged takeover', '', 0.0, 100.0),
    )

    def __init__(self, name: str = 'episode_keeper', **kwargs: object):
        super().__init__(name, **kwargs)
        self._ticker = self._watchdog = None
        self._asked: tuple[str, float] | None = None  # episode whose scene the simulator was asked for, and when (steady s)

    def setup(self) -> None:
        p = self.params
        self.robot = load_robot(resolve(p.robot_config, 'config/robots'))
        self.task = load_task(resolve(p.task_config, 'config/tasks'), self.robot)
        self._publisher = self.advertise(topics.EPISODE)
        self._simulator = self.client(topics.SIM_RESET_SCENE) if p.scene_reset == 'simulator' else None
        self._keeper = self._new_keeper()
        self.subscribe(topics.INTERVENTION, lambda m: self._publish(self._keeper.on_intervention(decode_intervention(m), self.now_ns())))
        self.serve(topics.START_EPISODE, self._start_episode)
        self.serve(topics.MARK_SUCCESS, self._mark(lambda *a: self._keeper.mark_success(*a)))
        self.serve(topics.MARK_FAILURE, self._mark(lambda *a: self._keeper.mark_failure(*a)))
        self.serve(topics.ABORT_EPISODE, self._mark(lambda now, stamp, by, reason: self._keeper.abort(now, by, reason)))
        self.serve(topics.RESET_SCENE, self._reset_scene)

    def _new_keeper(self) -> EpisodeKeeper:
        p = self.params
        scheme = RewardScheme(p.reward_success, p.reward_intervention, p.reward_recovery)
        settings = KeeperSettings(
            dt=p.dt, late_mark_time=p.late_mark_time, reset_timeout=p.reset_timeout, ready_time=p.ready_time, rewards=scheme
        )
        return EpisodeKeeper(self.robot, self.task, p.run or time.strftime('%Y%m%dT%H%M%S'), settings)

    def start(self) -> None:
        self._asked = None
        self._ticker = self.timer(1.0 / self.params.rate, self._tick)
        self._watchdog = self.timer(0.05, self._watch_scene, steady=True)

    def stop(self) -> None:
        if self._keeper.active:
            self._publish(self._keeper.abort(self.now_ns(), reason='episode keeper stopped'))
        self.destroy_timer(self._ticker)
        self.destroy_timer(self._watchdog)

    def _publish(self, events: Events) -> None:
        for event in events:
            self._publisher.publish(encode_episode(replace(event, id=self.next_id('episode'))))
            outcome = f' {event.outcome.name}' if event.outcome else ''
            self.get_logger().info(f'episode {event.episode} {event.state.name}{outcome} {event.reason}'.rstrip())

    def _tick(self) -> None:
        self._publish(self._keeper.tick(self.now_ns()))

    # --- services -------------------------------------------------------------------------------------------------------------------

    def _start_episode(self, request: object, response: object) -> object:
        def start() -> Events:
            return self._keeper.start(
                self.now_ns(), request.task, request.instruction, request.round, request.evaluation, int(request.seed)
            )

        if self._answer(response, start):
            response.episode = self._keeper.current.episode
        return response

    def _mark(self, method: Callable[[int, int, str, str], Events]) -> Callable[[object, object], object]:
        def mark(request: object, response: object) -> object:
            stamp_ns = stamp_to_ns(request.stamp)
            self._answer(response, lambda: method(self.now_ns(), stamp_ns, request.by, request.reason))
            return response

        return mark

    def _reset_scene(self, request: object, response: object) -> object:
        """A person's word that the scene is set. The simulator needs none: it is asked at the start pose."""
        if self._simulator is not None:
            response.success, response.message = False, 'the simulator resets the scene by itself, at the start of each episode'
        else:
            self._answer(response, lambda: self._keeper.scene_ready(self.now_ns()))
        return response

    def _answer(self, response: object, action: Callable[[], Events]) -> bool:
        try:
            events = action()
        except EpisodeError as refusal:
            response.success, response.message = False, str(refusal)
            return False
        self._publish(events)
        response.success, response.message = True, self._keeper.current.reason or self._keeper.current.state.name.lower()
        return True

    # --- the simulator's scene ------------------------------------------------------------------------------------------------------

    def _watch_scene(self) -> None:
        """Ask once, on the steady clock: the answer must come within its time-out, whatever /clock does."""
        if self._simulator is None or not self._keeper.needs_scene:
            self._asked = None
            return
        episode = self._keeper.current
        if self._asked is None and self._simulator.service_is_ready():
            request = interface(topics.SIM_RESET_SCENE.type).Request(task=episode.task, seed=episode.seed)
            done = self.guard(lambda future: self._scene_answered(episode.episode, future.result()), 'scene reset')
            self._asked = (episode.episode, time.monotonic())
            self._simulator.call_async(request).add_done_callback(done)
        elif self._asked is not None and time.monotonic() - self._asked[1] > self.params.scene_timeout:
            self._publish(self._keeper.scene_failed(self.now_ns(), f'no answer within {self.params.scene_timeout:g} s'))

    def _scene_answered(self, episode: str, response: object) -> None:
        if not self._keeper.needs_scene or self._keeper.current.episode != episode:
            return  # the episode was ended meanwhile
        if response.success:
            self._publish(self._keeper.scene_ready(self.now_ns()))
        else:
            self._publish(self._keeper.scene_failed(self.now_ns(), response.message or 'refused by the simulator'))

    def diagnostic_values(self) -> dict[str, object]:
        now = self._keeper.current
        return {'episode': now.episode, 'state': now.state.name, 'outcome': now.outcome.name} if now else {'state': 'no episode yet'}


main = main_of(EpisodeKeeperNode)
