"""The running graph as DDS discovery shows it."""

from __future__ import annotations

import time
from typing import Any

from bora_bringup import environment

SETTLED = 1.5  # s without a change after which discovery counts as done
OWN_NAME = 'bora_graph_observer'


def discover(timeout: float) -> dict[str, Any]:
    """{"nodes": […], "topics": […], "services": […]} seen within `timeout` s; ends earlier once nothing changes any more."""
    environment.apply()
    import rclpy

    rclpy.init(args=[])
    try:
        node = rclpy.create_node(OWN_NAME, start_parameter_services=False)
        started = changed = time.monotonic()
        seen: Any = None
        while time.monotonic() - started < timeout:
            now = snapshot(node)
            if now != seen:
                seen, changed = now, time.monotonic()
            elif now['nodes'] and time.monotonic() - changed > SETTLED:
                break
            time.sleep(0.1)
        return seen
    finally:
        rclpy.try_shutdown()


def snapshot(node: Any) -> dict[str, Any]:
    """What a node knows of the graph now."""
    names = sorted((space.rstrip('/') + '/' + name) for name, space in node.get_node_names_and_namespaces() if name != OWN_NAME)
    topics = []
    for name, types in sorted(node.get_topic_names_and_types()):
        publishers = _endpoints(node.get_publishers_info_by_topic(name))
        subscribers = _endpoints(node.get_subscriptions_info_by_topic(name))
        if publishers or subscribers:
            topics.append({'name': name, 'types': list(types), 'publishers': publishers, 'subscribers': subscribers})
    services = [{'name': n, 'types': list(ty)} for n, ty in sorted(node.get_service_names_and_types()) if OWN_NAME not in n]
    return {'nodes': names, 'topics': topics, 'services': services}


def _endpoints(infos: Any) -> list[dict[str, Any]]:
    rows = [
        {'node': i.node_namespace.rstrip('/') + '/' + i.node_name, 'type': i.topic_type, 'qos': _qos(i.qos_profile)}
        for i in infos
        if i.node_name != OWN_NAME
    ]
    return sorted(rows, key=lambda r: r['node'])


def _qos(profile: Any) -> dict[str, Any]:
    """Reliability and durability travel in discovery; history and depth do not on every middleware."""
    return {
        'reliability': profile.reliability.name.lower(),
        'durability': profile.durability.name.lower(),
        'history': profile.history.name.lower(),
        'depth': profile.depth,
    }


def print_table(found: dict[str, Any]) -> None:
    """The topics as a table for a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table('topic', 'type', 'QoS', 'publishers', 'subscribers', title=f'{len(found["nodes"])} nodes')
    for topic in found['topics']:
        if topic['name'] in ('/rosout', '/parameter_events'):
            continue
        ends = [*topic['publishers'], *topic['subscribers']]
        qos = sorted({f'{e["qos"]["reliability"]}, {e["qos"]["durability"]}' for e in ends})
        nodes = ['\n'.join(e['node'] for e in topic[k]) for k in ('publishers', 'subscribers')]
        table.add_row(topic['name'], '\n'.join(topic['types']), '\n'.join(qos), *nodes)
    Console().print(table)
