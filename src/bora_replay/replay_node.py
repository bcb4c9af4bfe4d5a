"""Replay node: writes the step log, cuts closed episodes, publishes their transitions and serves them again on request."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from bora_common import topics
from bora_common.codec import decode_observation, decode_weights_status, encode_transition, stamp_to_ns
from bora_common.codec_record import decode_entry, frame_bytes, from_bytes
from bora_common.errors import ConfigError, LogError
from bora_common.node import BoraNode, interface, qos
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot, load_task
from bora_common.topics import TopicSpec
from bora_common.types import Observation
from bora_replay.recorder import Recorder, RecorderSettings
from bora_replay.steplog import FRAMES, STREAMS, Session, StepLog, frame_reference

KEPT_OBSERVATIONS = 60  # whose images wait in case a proposal is made from them
PAGE = 64  # transitions that get_transitions returns at most


class ReplayNode(BoraNode):
    """Shell of `Recorder` and `StepLog`."""

    PARAMETERS = (
        Parameter('run_dir', '', 'folder of the run; the log goes to its subfolder log'),
        Parameter('robot_config', 'fr3_hand12', 'robot: name within config/robots, or a path'),
        Parameter('task_config', 'press_button', 'task: name within config/tasks, or a path'),
        Parameter('dt', 1 / 15, 'duration of a step', 's', 0.001, 1.0),
        Parameter('log_images', True, 'keep one frame of every camera a step'),
        Parameter('image_format', 'jpeg', 'how frames are encoded', choices=('jpeg', 'png')),
        Parameter('jpeg_quality', 90, 'quality of jpeg frames', '', 1, 100),
        Parameter('commit_period', 0.5, 'time between batches that are put on disk', 's', 0.05, 10.0),
        Parameter('late_mark_time', 2.0, 'between the end of an episode and its cut, for late marks', 's', 0.0, 60.0),
        Parameter('max_segment_size', 256, 'a larger segment is closed and the next one begun', 'MiB', 1, 16384),
    )

    def setup(self) -> None:
        p = self.params
        if not p.run_dir:
            raise ConfigError('replay: parameter "run_dir" must name the folder of the run')
        self.robot = load_robot(resolve(p.robot_config, 'config/robots'))
        task = load_task(resolve(p.task_config, 'config/tasks'), self.robot)
        self.session = Session(self.robot.name, self.robot.layout.names, task.name, task.episode_steps, p.dt, self.robot.cameras)
        self._observations: OrderedDict[int, Observation] = OrderedDict()
        self._newest_frame_ns = -(10**18)
        self._published = 0
        self._transitions = self.advertise(topics.REPLAY)
        for spec in STREAMS:
            self._subscribe_raw(spec, self._on_stream)
        self._subscribe_raw(topics.WEIGHTS_STATUS, self._on_weights_status)
        self.subscribe(topics.OBSERVATION, self._on_observation)
        self.serve(topics.GET_TRANSITIONS, self._on_get_transitions)
        self.timer(p.commit_period, self._commit, steady=True)
        self.timer(min(p.commit_period, 0.1), self._close_due, steady=True)

    def start(self) -> None:
        """Open a segment and take up what the log holds of episodes that were not cut."""
        settings = RecorderSettings(self.session.dt, self.session.episode_steps, self.params.late_mark_time)
        self.log = StepLog(self.params.run_dir, self.session, self.params.max_segment_size * 2**20)
        self.recorder = Recorder(settings)
        self.log.recover(self.recorder)
        if self.log.contents.corrupt:
            self.get_logger().warning(f'step log: {self.log.contents.corrupt} damaged place(s) in {self.params.run_dir}')

    def stop(self) -> None:
        """Cut what has ended; an episode that still runs stays open, so that a restarted recorder goes on with it."""
        try:
            for name in self.recorder.ended():
                self._close(name)
            self.log.close()
        except LogError as error:  # a disk that is full or gone is already this node's failure: the rest must still be torn down
            self.get_logger().error(f'{error}; what was not on disk is lost')

    def diagnostic_values(self) -> dict[str, object]:
        lost = {f'{name} lost': monitor.lost for name, monitor in self.recorder.monitors.items()}
        return {**lost, 'transitions': self.log.next_seq, 'published': self._published, 'segment': self.log.segment}

    # --- streams --------------------------------------------------------------------------------------------------------------------

    def _subscribe_raw(self, spec: TopicSpec, callback: Any) -> None:
        """Subscription that passes the bytes as they came, which is what the log keeps."""

        def received(data: bytes) -> None:
            callback(spec, data)

        self.create_subscription(interface(spec.type), spec.name, self.guard(received, spec.name), qos(spec), raw=True)

    def _on_stream(self, spec: TopicSpec, data: bytes) -> None:
        value, now = decode_entry(spec.name, spec.type, data, self.robot.layout), self.now_ns()
        if not self.recorder.add(spec.name, value, now):
            return
        self.log.append(spec.name, data, now, value.stamp_ns)
        if spec is topics.BASE_CHUNK and value.stamp_ns in self._observations:
            self._log_frames(self._observations[value.stamp_ns])

    def _on_weights_status(self, spec: TopicSpec, data: bytes) -> None:
        message = from_bytes(data, spec.type)
        decode_weights_status(message)  # only what is valid enters the log
        self.log.append(spec.name, data, self.now_ns(), stamp_to_ns(message.header.stamp))

    def _on_observation(self, message: Any) -> None:
        if not self.params.log_images or not message.episode:
            return
        observation = decode_observation(message, self.robot.layout)
        self._observations[observation.stamp_ns] = observation
        while len(self._observations) > KEPT_OBSERVATIONS:
            self._observations.popitem(last=False)
        # Cameras may be faster than steps: between two frames there are at least nine tenths of a step.
        if not 0 <= observation.stamp_ns - self._newest_frame_ns < 0.9e9 * self.params.dt:
            self._newest_frame_ns = observation.stamp_ns
            self._log_frames(observation)

    def _log_frames(self, observation: Observation) -> None:
        stamp = observation.stamp_ns
        if self.recorder.has_frame(stamp):
            return
        for camera, image in zip(observation.camera_names, observation.images, strict=True):
            data = frame_bytes(image, stamp, camera, self.params.image_format, self.params.jpeg_quality)
            self.log.append(FRAMES + camera, data, self.now_ns(), stamp)
        self.recorder.add_frame(stamp, frame_reference(self.log.segment, stamp))

    # --- transitions ---------------------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        self.log.commit()

    def _close_due(self) -> None:
        for name in self.recorder.due(self.now_ns()):
            self._close(name)

    def _close(self, name: str) -> None:
        """Cut, put on disk, then publish: nothing is learnt from that the log does not hold."""
        closed = self.recorder.close(name, self.log.next_seq)
        for transition in self.log.append_cut(closed, self.now_ns()):
            self._transitions.publish(encode_transition(transition, self.robot.layout))
            self._published += 1
        event = closed.record.episode
        kind = 'evaluation' if event.evaluation else f'{len(closed.transitions)} transitions'
        self.get_logger().info(f'episode {name}: {event.outcome.name.lower()}, {kind}{"" if closed.ended else " (interrupted)"}')

    def _on_get_transitions(self, request: Any, response: Any) -> Any:
        end = self.log.next_seq
        seq = request.from_seq
        while seq < end and len(response.transitions) < min(request.max_count or PAGE, PAGE):
            data = self.log.transition(seq)
            if data is not None:
                response.transitions.append(from_bytes(data, topics.REPLAY.type))
            seq += 1
        response.next_seq, response.end_seq = seq, end
        return response
