"""The one description of the graph: which nodes, in which process, with which parameters, on which topics. Pure data, no ROS.

`bora up`, `launch/online.launch.py`, `bora demo`, the rviz configuration's test and `bora up --dry-run` all read it from here.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bora_common import topics as t
from bora_common.errors import ConfigError, nearest
from bora_common.paths import resolve, share
from bora_common.robot import RobotSpec, load_robot, load_task

PACKAGE = 'bora_bringup'
OPERATORS = ('joystick', 'skilled', 'late', 'mediocre', 'none')
SCRIPTED = ('skilled', 'late', 'mediocre')


@dataclass(frozen=True)
class Arguments:
    """Deployment facts of the online graph. Tuning lives in config/params/."""

    use_sim: bool = field(default=True, metadata={'help': 'simulated robot, referee and /clock instead of the real ones'})
    robot_config: str = field(default='fr3_hand12', metadata={'help': 'robot: a name in config/robots or a YAML file'})
    objects: str = field(
        default='deployment', metadata={'help': 'simulated workplace: standard, unseen, or deployment (miscalibrated, as a real one)'}
    )  # fmt: skip
    task: str = field(default='press_button', metadata={'help': 'task: a name in config/tasks or a YAML file'})
    device: str = field(default='cpu', metadata={'help': 'torch device of policy, critic and trainer: cpu, cuda or cuda:N'})
    rviz: bool = field(default=False, metadata={'help': 'start rviz2 with config/rviz/bora.rviz'})
    record: bool = field(default=True, metadata={'help': 'log the camera frames with the steps'})
    run_dir: str = field(default='', metadata={'help': 'folder of log, weights and metrics; runs/<time> when empty'})
    operator: str = field(default='joystick', metadata={'help': f'who may take over: {", ".join(OPERATORS)}'})
    namespace: str = field(default='bora', metadata={'help': 'ROS namespace of the graph'})
    model: str = field(default='', metadata={'help': 'folder of model, critic and offline data; models/<task> when empty'})
    seed: int = field(default=0, metadata={'help': 'seed of the learning and of scenes that are not given one'})
    realtime_factor: float = field(default=1.0, metadata={'help': 'highest pace of the simulation, 0 = as fast as it can'})


@dataclass(frozen=True)
class NodeSpec:
    """One node. Nodes of this package are started by the executable `host` with their names as arguments."""

    name: str
    process: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    publishes: tuple[t.TopicSpec, ...] = ()
    subscribes: tuple[t.TopicSpec, ...] = ()
    serves: tuple[t.ServiceSpec, ...] = ()
    calls: tuple[t.ServiceSpec, ...] = ()
    package: str = PACKAGE
    executable: str = 'host'
    arguments: tuple[str, ...] = ()
    namespace: str = ''  # set only where it differs from the graph's

    @property
    def external(self) -> bool:
        return self.package != PACKAGE


@dataclass(frozen=True)
class ProcessSpec:
    """One process. `restart` = may be started again after it died; otherwise its death ends the run."""

    name: str
    nodes: tuple[NodeSpec, ...]
    nice: int = 0
    restart: bool = False

    @property
    def external(self) -> bool:
        return self.nodes[0].external

    @property
    def arguments(self) -> tuple[str, ...]:
        """Command-line arguments before --ros-args."""
        return self.nodes[0].arguments if self.external else tuple(n.name for n in self.nodes)


# What may come back after a crash: it holds no command over the robot, and it resumes from its own files or from scratch.
RESTARTED = frozenset({'perception', 'policy', 'replay', 'trainer', 'monitor'})
NICE = {'trainer': 10}


@dataclass(frozen=True)
class Graph:
    """A resolved graph: every file name absolute, every parameter in its place."""

    arguments: Arguments
    nodes: tuple[NodeSpec, ...]
    run_dir: Path

    @property
    def processes(self) -> tuple[ProcessSpec, ...]:
        names = dict.fromkeys(n.process for n in self.nodes)
        return tuple(self._process(name) for name in names)

    def _process(self, name: str) -> ProcessSpec:
        nodes = tuple(n for n in self.nodes if n.process == name)
        return ProcessSpec(name, nodes, NICE.get(name, 0), name in RESTARTED or any(n.external for n in nodes))

    def namespace_of(self, node: NodeSpec) -> str:
        """Absolute namespace of a node."""
        return node.namespace or '/' + self.arguments.namespace.strip('/')

    def node(self, name: str) -> NodeSpec:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(f'graph: no node "{name}", {nearest(name, [n.name for n in self.nodes])}')

    def to_json(self) -> dict[str, Any]:
        """What `bora up --dry-run --json` prints."""
        keys = ('name', 'package', 'executable', 'process')
        return {'nodes': [{**{k: getattr(n, k) for k in keys}, 'parameters': dict(n.parameters)} for n in self.nodes]}

    def write_parameters(self, folder: Path) -> dict[str, Path]:
        """One parameter file a process, keyed by the nodes' full names; {process: file}."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for process in self.processes:
            content = {f'{self.namespace_of(n).rstrip("/")}/{n.name}': {'ros__parameters': dict(n.parameters)} for n in process.nodes}
            files[process.name] = folder / f'{process.name}.yaml'
            files[process.name].write_text(yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
        return files


def parse_arguments(pairs: Iterable[str]) -> Arguments:
    """Arguments from "name=value" or "name:=value" texts. Raises ConfigError naming the argument."""
    fields = {f.name: f for f in dataclasses.fields(Arguments)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.replace(':=', '=', 1).partition('=')
        if not separator:
            raise ConfigError(f'argument "{pair}": expected name=value')
        if name not in fields:
            raise ConfigError(f'unknown argument "{name}", {nearest(name, fields)}')
        values[name] = _convert(name, text, type(fields[name].default))
    return Arguments(**values)


def _convert(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ('true', 'false', '1', '0'):
            raise ConfigError(f'argument "{name}": expected true or false, got "{text}"')
        return text.lower() in ('true', '1')
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f'argument "{name}": expected {kind.__name__}, got "{text}"') from None


def online(arguments: Arguments, tuning: Mapping[str, Mapping[str, Any]] | None = None) -> Graph:
    """The online graph. `tuning` {node: {parameter: value}} goes over config/params/{sim,real}.yaml."""
    _check(arguments)
    facts = Facts.of(arguments)
    nodes = [*_bora_nodes(facts), *(_simulation(facts) if arguments.use_sim else _robot_drivers(facts)), *_tools(facts)]
    nodes = [dataclasses.replace(n, parameters={'use_sim_time': arguments.use_sim, **n.parameters}) for n in nodes]
    name = 'sim.yaml' if arguments.use_sim else 'real.yaml'
    nodes = _tuned(nodes, load_tuning(share() / 'config' / 'params' / name), name)
    return Graph(arguments, tuple(_tuned(nodes, tuning or {}, 'tuning')), facts.run_dir)


def load_tuning(path: Path) -> dict[str, dict[str, Any]]:
    """{node: {parameter: value}} of a tuning file. Raises ConfigError when it isn't one."""
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f'tuning: {path} is unusable: {error}') from None
    if not isinstance(data, dict) or not all(isinstance(v, dict) for v in data.values()):
        raise ConfigError(f'tuning: {path} must map node names to parameters')
    return data


def _tuned(nodes: Sequence[NodeSpec], tuning: Mapping[str, Mapping[str, Any]], where: str) -> list[NodeSpec]:
    known = {*BORA_NODES, *(n.name for n in nodes)}
    for name in tuning:
        if name not in known:
            raise ConfigError(f'{where}: unknown node "{name}", {nearest(name, known)}')
    return [dataclasses.replace(n, parameters={**n.parameters, **tuning.get(n.name, {})}) for n in nodes]


def _check(arguments: Arguments) -> None:
    if arguments.operator not in OPERATORS:
        raise ConfigError(f'argument "operator": "{arguments.operator}" is not valid, {nearest(arguments.operator, OPERATORS)}')
    if arguments.operator in SCRIPTED and not arguments.use_sim:
        raise ConfigError(f'argument "operator": "{arguments.operator}" sees the simulation\'s truth and needs use_sim=true')
    if not arguments.namespace.strip('/'):
        raise ConfigError('argument "namespace": must not be empty')
    if not (arguments.device == 'cpu' or arguments.device.split(':')[0] == 'cuda'):
        raise ConfigError(f'argument "device": "{arguments.device}" is not valid, expected cpu, cuda or cuda:N')


@dataclass(frozen=True)
class Facts:
    """Arguments with every file name resolved."""

    arguments: Arguments
    robot_file: Path
    robot: RobotSpec
    task_file: Path
    model: Path
    run_dir: Path

    @staticmethod
    def of(arguments: Arguments) -> Facts:
        robot_file, task_file = resolve(arguments.robot_config, 'config/robots'), resolve(arguments.task, 'config/tasks')
        robot = load_robot(robot_file)
        task = load_task(task_file, robot)
        run_dir = Path(arguments.run_dir or Path('runs') / time.strftime('%Y%m%d-%H%M%S')).expanduser().resolve()
        return Facts(arguments, robot_file, robot, task_file, resolve(arguments.model or task.name, 'models'), run_dir)

    @property
    def task_name(self) -> str:
        return self.task_file.stem


BORA_NODES = (
    'perception', 'base_policy', 'residual_actor', 'critic', 'teleop', 'arbiter', 'episode_keeper', 'hardware', 'replay', 'trainer',
    'monitor', 'simulated_robot', 'scripted_operator', 'referee',
)  # fmt: skip


def _bora_nodes(facts: Facts) -> list[NodeSpec]:
    """What is the same on a simulated and on a real robot."""
    return [_hardware(facts), _perception(facts), *_policy(facts), *_operator(facts), _replay(facts), _trainer(facts), _monitor(facts)]


def _hardware(facts: Facts) -> NodeSpec:
    return NodeSpec(
        'hardware', 'hardware', {'robot_config': str(facts.robot_file)},
        publishes=(t.EXECUTED, t.ROBOT_STATE, *(t.joint_trajectory(g.controller) for g in facts.robot.groups)),
        subscribes=(t.COMMAND, t.JOINT_STATES), serves=(t.HOLD, t.RESUME, t.CLEAR_FAULT),
    )  # fmt: skip


def _perception(facts: Facts) -> NodeSpec:
    return NodeSpec(
        'perception', 'perception', {'robot_config': str(facts.robot_file)},
        publishes=(t.OBSERVATION,), subscribes=(*(t.camera_image(c) for c in facts.robot.cameras), t.JOINT_STATES, t.EPISODE),
    )  # fmt: skip


def _policy(facts: Facts) -> list[NodeSpec]:
    robot, model = {'robot_config': str(facts.robot_file)}, {'model': str(facts.model)}
    device = {'device': facts.arguments.device}
    return [
        NodeSpec(
            'base_policy', 'policy', {**robot, **model, **device},
            publishes=(t.BASE_CHUNK,), subscribes=(t.OBSERVATION, t.INTERVENTION),
        ),
        NodeSpec(
            'residual_actor', 'policy', {**robot, **model, 'state_dir': str(facts.run_dir / 'residual')},
            publishes=(t.CHUNK, t.WEIGHTS_STATUS), subscribes=(t.BASE_CHUNK, t.WEIGHTS),
        ),
        NodeSpec(
            'critic', 'policy', {**robot, 'critic': str(facts.model / 'critic')},
            publishes=(t.VALUE,), subscribes=(t.BASE_CHUNK, t.CHUNK),
        ),
    ]  # fmt: skip


def _operator(facts: Facts) -> list[NodeSpec]:
    robot = {'robot_config': str(facts.robot_file)}
    both = {**robot, 'task_config': str(facts.task_file)}
    sim = facts.arguments.use_sim
    return [
        NodeSpec(
            'teleop', 'operator', robot, publishes=(t.HUMAN_COMMAND,), subscribes=(t.JOY, t.COMMAND),
            calls=(t.MARK_SUCCESS, t.MARK_FAILURE, t.ABORT_EPISODE, t.RESET_SCENE, t.HOLD, t.RESUME),
        ),
        NodeSpec(
            'arbiter', 'operator', both, publishes=(t.COMMAND, t.INTERVENTION),
            subscribes=(t.CHUNK, t.HUMAN_COMMAND, t.EPISODE, t.ROBOT_STATE, t.JOINT_STATES),
        ),
        NodeSpec(
            'episode_keeper', 'operator', {**both, 'scene_reset': 'simulator' if sim else 'manual'},
            publishes=(t.EPISODE,), subscribes=(t.INTERVENTION,),
            serves=(t.START_EPISODE, t.MARK_SUCCESS, t.MARK_FAILURE, t.ABORT_EPISODE, t.RESET_SCENE),
            calls=(t.SIM_RESET_SCENE,) if sim else (),
        ),
    ]  # fmt: skip


def _replay(facts: Facts) -> NodeSpec:
    return NodeSpec(
        'replay', 'replay',
        {'robot_config': str(facts.robot_file), 'task_config': str(facts.task_file), 'run_dir': str(facts.run_dir),
         'log_images': facts.arguments.record},
        publishes=(t.REPLAY,), serves=(t.GET_TRANSITIONS,),
        subscribes=(t.EXECUTED, t.OBSERVATION, t.BASE_CHUNK, t.CHUNK, t.EPISODE, t.INTERVENTION, t.WEIGHTS_STATUS),
    )  # fmt: skip


def _trainer(facts: Facts) -> NodeSpec:
    return NodeSpec(
        'trainer', 'trainer',
        {'robot_config': str(facts.robot_file), 'model': str(facts.model), 'critic': str(facts.model / 'critic'),
         'run_dir': str(facts.run_dir / 'trainer'), 'run': facts.run_dir.name,
         'seed': facts.arguments.seed, 'device': facts.arguments.device},
        publishes=(t.WEIGHTS, t.TRAINING), subscribes=(t.REPLAY, t.WEIGHTS_STATUS, t.EPISODE), calls=(t.GET_TRANSITIONS,),
    )  # fmt: skip


def _monitor(facts: Facts) -> NodeSpec:
    return NodeSpec(
        'monitor', 'monitor', {'robot_config': str(facts.robot_file)}, publishes=(t.MARKERS,),
        subscribes=(t.CHUNK, t.VALUE, t.INTERVENTION, t.EPISODE, t.ROBOT_STATE, t.TRAINING),
    )  # fmt: skip


def _simulation(facts: Facts) -> list[NodeSpec]:
    """The simulated robot, and the simulated people around it."""
    arguments, robot = facts.arguments, facts.robot
    config = {'robot_config': str(facts.robot_file)}
    nodes = [
        NodeSpec(
            'simulated_robot', 'robot',
            {**config, 'task': facts.task_name, 'objects': arguments.objects, 'seed': arguments.seed,
             'realtime_factor': arguments.realtime_factor, 'record': str(facts.run_dir / 'controller.npz'), 'use_sim_time': False},
            publishes=(t.CLOCK, t.JOINT_STATES, t.SIM_STATE, *(f(c) for c in robot.cameras for f in (t.camera_image, t.camera_info))),
            subscribes=(*(t.joint_trajectory(g.controller) for g in robot.groups), t.EXECUTED), serves=(t.SIM_RESET_SCENE,),
        ),
        NodeSpec(
            'referee', 'people', {}, subscribes=(t.SIM_STATE, t.EPISODE), calls=(t.MARK_SUCCESS, t.MARK_FAILURE),
        ),
    ]  # fmt: skip
    if arguments.operator in SCRIPTED:
        nodes.append(
            NodeSpec(
                'scripted_operator', 'people', {**config, 'task': facts.task_name, 'skill': arguments.operator},
                publishes=(t.HUMAN_COMMAND,), subscribes=(t.SIM_STATE, t.EPISODE, t.COMMAND),
            )  # fmt: skip
        )
    return nodes


def _robot_drivers(facts: Facts) -> list[NodeSpec]:
    """Drivers beside ros2_control, which the robot's own bring-up starts."""
    return [
        NodeSpec(
            f'camera_{camera}', f'camera_{camera}',
            {'camera_name': f'camera_{camera}', 'enable_depth': False, 'rgb_camera.color_profile': '640x480x30'},
            publishes=(t.camera_image(camera), t.camera_info(camera)), package='realsense2_camera', executable='realsense2_camera_node',
        )
        for camera in facts.robot.cameras
    ]  # fmt: skip


def _tools(facts: Facts) -> list[NodeSpec]:
    """Standard nodes of other packages."""
    arguments = facts.arguments
    urdf = share() / 'config' / 'urdf' / f'{facts.robot.name}.urdf'
    nodes = [
        NodeSpec(
            'robot_state_publisher', 'robot_state_publisher', {'robot_description': urdf.read_text()},
            publishes=(t.TF,), subscribes=(t.JOINT_STATES,),
            package='robot_state_publisher', executable='robot_state_publisher', namespace='/',
        )
    ]  # fmt: skip
    if arguments.operator == 'joystick':
        nodes.append(NodeSpec('joy_node', 'joy_node', {'autorepeat_rate': 60.0}, publishes=(t.JOY,), package='joy', executable='joy_node'))
    if arguments.rviz:
        config = share() / 'config' / 'rviz' / 'bora.rviz'
        nodes.append(NodeSpec('rviz2', 'rviz2', package='rviz2', executable='rviz2', arguments=('-d', str(config))))
    return nodes
