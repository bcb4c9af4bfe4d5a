"""The online graph of bora_bringup.graph as launch actions: `ros2 launch bora_bringup online.launch.py use_sim:=false device:=cuda`."""

import dataclasses
import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown, UnsetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from bora_bringup import environment
from bora_bringup.graph import Arguments, Graph, ProcessSpec, online, parse_arguments


def process_action(graph: Graph, process: ProcessSpec, parameters) -> Node:
    """One process of the graph. A vital one ends the launch; the others come back."""
    first = process.nodes[0]
    options = {'name': first.name} if process.external else {}
    if process.restart:
        options.update(respawn=True, respawn_delay=2.0)
    else:
        options.update(on_exit=Shutdown(reason=f'{process.name} ended'))
    if process.nice:
        options['prefix'] = f'nice -n {process.nice}'
    return Node(
        package=first.package,
        executable=first.executable,
        exec_name=process.name,
        namespace=graph.namespace_of(first),
        arguments=list(process.arguments),
        parameters=[str(parameters)],
        output='screen',
        sigterm_timeout='2',
        sigkill_timeout='2',
        **options,
    )


def start(context):
    """Actions of the graph that the launch arguments describe."""
    names = [f.name for f in dataclasses.fields(Arguments)]
    graph = online(parse_arguments(f'{name}={LaunchConfiguration(name).perform(context)}' for name in names))
    files = graph.write_parameters(graph.run_dir / 'params')
    variables = [SetEnvironmentVariable(name, value) for name, value in environment.variables(os.environ).items()]
    removed = [UnsetEnvironmentVariable(name) for name in environment.REMOVED]
    return [*variables, *removed, *(process_action(graph, p, files[p.name]) for p in graph.processes)]


def _declare(field):
    default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    return DeclareLaunchArgument(field.name, default_value=default, description=field.metadata['help'])


def generate_launch_description():
    """Arguments of bora_bringup.graph.Arguments, then the graph."""
    return LaunchDescription([*(_declare(f) for f in dataclasses.fields(Arguments)), OpaqueFunction(function=start)])
