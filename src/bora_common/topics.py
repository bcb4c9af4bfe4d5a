"""Every topic and service of the graph once: name, type, quality of service. Pure data; `node.py` turns it into rclpy's QoS."""

from __future__ import annotations

from dataclasses import dataclass

CAMERAS = ('left', 'front', 'right')


@dataclass(frozen=True)
class TopicSpec:
    """One topic. Relative names live under the graph's namespace."""

    name: str
    type: str  # "package/msg/Name"
    reliable: bool = True
    transient_local: bool = False
    depth: int = 10


@dataclass(frozen=True)
class ServiceSpec:
    """One service."""

    name: str
    type: str  # "package/srv/Name"


def _by_name(*specs):
    return {spec.name: spec for spec in specs}


OBSERVATION = TopicSpec('observation', 'bora_msgs/msg/Observation', depth=60)
# 30 s, as `executed`: a replay node that comes back must not miss proposals
BASE_CHUNK = TopicSpec('base_chunk', 'bora_msgs/msg/BaseChunk', transient_local=True, depth=450)
CHUNK = TopicSpec('chunk', 'bora_msgs/msg/Chunk', transient_local=True, depth=450)
VALUE = TopicSpec('value', 'bora_msgs/msg/Value', depth=5)
JOY = TopicSpec('joy', 'sensor_msgs/msg/Joy')
HUMAN_COMMAND = TopicSpec('human_command', 'bora_msgs/msg/HumanCommand')
COMMAND = TopicSpec('command', 'bora_msgs/msg/Command', reliable=False, depth=1)
EXECUTED = TopicSpec('executed', 'bora_msgs/msg/Executed', transient_local=True, depth=3000)
ROBOT_STATE = TopicSpec('robot_state', 'bora_msgs/msg/RobotState', transient_local=True, depth=1)
INTERVENTION = TopicSpec('intervention', 'bora_msgs/msg/Intervention', transient_local=True, depth=100)
EPISODE = TopicSpec('episode', 'bora_msgs/msg/Episode', transient_local=True, depth=100)
REPLAY = TopicSpec('replay', 'bora_msgs/msg/Transition', depth=100)
WEIGHTS = TopicSpec('weights', 'bora_msgs/msg/Weights', transient_local=True, depth=1)
WEIGHTS_STATUS = TopicSpec('weights_status', 'bora_msgs/msg/WeightsStatus', transient_local=True, depth=1)
TRAINING = TopicSpec('training', 'bora_msgs/msg/TrainingStatus')
MARKERS = TopicSpec('markers', 'visualization_msgs/msg/MarkerArray')
JOINT_STATES = TopicSpec('/joint_states', 'sensor_msgs/msg/JointState', reliable=False, depth=1)
CLOCK = TopicSpec('/clock', 'rosgraph_msgs/msg/Clock', reliable=False, depth=1)
DIAGNOSTICS = TopicSpec('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray')
TF = TopicSpec('/tf', 'tf2_msgs/msg/TFMessage', depth=100)
SIM_STATE = TopicSpec('sim/state', 'bora_msgs/msg/SimState', depth=5)


def camera_image(camera: str) -> TopicSpec:
    """Colour image of one camera, as realsense2_camera publishes it."""
    return TopicSpec(f'camera_{camera}/color/image_raw', 'sensor_msgs/msg/Image', reliable=False, depth=1)


def camera_info(camera: str) -> TopicSpec:
    """Intrinsics of one camera, as realsense2_camera publishes them."""
    return TopicSpec(f'camera_{camera}/color/camera_info', 'sensor_msgs/msg/CameraInfo', reliable=False, depth=1)


def joint_trajectory(controller: str) -> TopicSpec:
    """Command topic of a joint_trajectory_controller; absolute, since controllers live outside the graph's namespace."""
    return TopicSpec(f'/{controller}/joint_trajectory', 'trajectory_msgs/msg/JointTrajectory', depth=1)


TOPICS = _by_name(
    OBSERVATION, BASE_CHUNK, CHUNK, VALUE, JOY, HUMAN_COMMAND, COMMAND, EXECUTED, ROBOT_STATE, INTERVENTION, EPISODE, REPLAY,
    WEIGHTS, WEIGHTS_STATUS, TRAINING, MARKERS, JOINT_STATES, CLOCK, DIAGNOSTICS, TF, SIM_STATE,
)  # fmt: skip

HOLD = ServiceSpec('hold', 'std_srvs/srv/Trigger')
RESUME = ServiceSpec('resume', 'std_srvs/srv/Trigger')
CLEAR_FAULT = ServiceSpec('clear_fault', 'std_srvs/srv/Trigger')
START_EPISODE = ServiceSpec('start_episode', 'bora_msgs/srv/StartEpisode')
MARK_SUCCESS = ServiceSpec('mark_success', 'bora_msgs/srv/MarkOutcome')
MARK_FAILURE = ServiceSpec('mark_failure', 'bora_msgs/srv/MarkOutcome')
ABORT_EPISODE = ServiceSpec('abort_episode', 'bora_msgs/srv/MarkOutcome')
RESET_SCENE = ServiceSpec('reset_scene', 'bora_msgs/srv/ResetScene')
GET_TRANSITIONS = ServiceSpec('get_transitions', 'bora_msgs/srv/GetTransitions')
SIM_RESET_SCENE = ServiceSpec('sim/reset_scene', 'bora_msgs/srv/ResetScene')  # behind the episode keeper's reset_scene

SERVICES = _by_name(
    HOLD, RESUME, CLEAR_FAULT, START_EPISODE, MARK_SUCCESS, MARK_FAILURE, ABORT_EPISODE, RESET_SCENE, GET_TRANSITIONS,
    SIM_RESET_SCENE,
)  # fmt: skip
