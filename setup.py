"""ament_python package: every Python package under src/, the launch file, the configuration and the shipped models."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'bora_bringup'
SHARED = ('launch', 'config', 'models')

NODES = {
    'perception': 'bora_perception.perception_node:PerceptionNode',
    'base_policy': 'bora_policy.base_policy_node:BasePolicyNode',
    'residual_actor': 'bora_policy.residual_actor_node:ResidualActorNode',
    'critic': 'bora_critic.critic_node:CriticNode',
    'teleop': 'bora_hil.teleop_node:TeleopNode',
    'arbiter': 'bora_hil.arbiter_node:ArbiterNode',
    'episode_keeper': 'bora_hil.episode_keeper_node:EpisodeKeeperNode',
    'hardware': 'bora_hw.hardware_node:HardwareNode',
    'replay': 'bora_replay.replay_node:ReplayNode',
    'trainer': 'bora_trainer.trainer_node:TrainerNode',
    'monitor': 'bora_bringup.monitor_node:MonitorNode',
    'simulated_robot': 'bora_sim.robot_node:SimulatedRobotNode',
    'scripted_operator': 'bora_sim.operator_node:ScriptedOperatorNode',
    'referee': 'bora_sim.referee_node:RefereeNode',
}


def shared_files():
    """(destination, files) of every folder that is installed beside the code."""
    rows = [('share/ament_index/resource_index/packages', [f'resource/{NAME}']), (f'share/{NAME}', ['package.xml'])]
    for top in SHARED:
        folders = [p for p in (Path(top), *sorted(Path(top).rglob('*'))) if p.is_dir() and p.name != '__pycache__']
        for folder in folders:
            files = [str(p) for p in sorted(folder.iterdir()) if p.is_file()]
            if files:
                rows.append((f'share/{NAME}/{folder}', files))
    return rows


setup(
    name=NAME,
    version='0.1.0',
    description='Residual reinforcement learning of dexterous VLA policies on a real robot, as a ROS 2 graph',
    license='Apache-2.0',
    maintainer='bora maintainers',
    maintainer_email='maintainers@bora-robotics.org',
    python_requires='>=3.11,<3.13',
    package_dir={'': 'src'},
    packages=find_packages('src'),
    data_files=shared_files(),
    install_requires=['setuptools'],
    # colcon runs in the system's Python: the executables shall take the one of the shell that starts them, a virtual environment's.
    options={'build_scripts': {'executable': '/usr/bin/env python3'}},
    zip_safe=False,
    entry_points={
        'console_scripts': ['bora = bora_bringup.cli:main', 'host = bora_bringup.host:main'],
        'bora.nodes': [f'{name} = {target}' for name, target in NODES.items()],
    },
)
