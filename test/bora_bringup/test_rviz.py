"""config/rviz/bora.rviz shows topics that the graph publishes, with the types and the QoS that it publishes them with."""

import yaml

from bora_bringup.graph import online, parse_arguments
from bora_bringup.markers import BASE_FRAME
from bora_common.paths import share

SHOWN = {
    'rviz_default_plugins/Image': 'sensor_msgs/msg/Image',
    'rviz_default_plugins/MarkerArray': 'visualization_msgs/msg/MarkerArray',
}
ROBOT_DESCRIPTION = '/robot_description'  # std_msgs/String of robot_state_publisher, latched


def displays():
    return yaml.safe_load((share() / 'config' / 'rviz' / 'bora.rviz').read_text())['Visualization Manager']


def published():
    graph = online(parse_arguments(['rviz=true', 'use_sim=false']))
    return {
        spec.name if spec.name.startswith('/') else f'{graph.namespace_of(node)}/{spec.name}': spec
        for node in graph.nodes
        for spec in node.publishes
    }


def test_every_shown_topic_is_published_with_that_type_and_a_compatible_qos():
    topics, count = published(), 0
    for display in displays()['Displays']:
        if display['Class'] not in SHOWN:
            continue
        count += 1
        topic = display['Topic']
        spec = topics[topic['Value']]
        assert spec.type == SHOWN[display['Class']]
        assert spec.reliable or topic['Reliability Policy'] == 'Best Effort'
        assert spec.transient_local or topic['Durability Policy'] == 'Volatile'
    assert count == 4  # three cameras and the markers


def test_every_display_with_a_topic_is_known_to_this_test():
    for display in displays()['Displays']:
        assert 'Topic' not in display or display['Class'] in SHOWN
        assert 'Description Topic' not in display or display['Description Topic']['Value'] == ROBOT_DESCRIPTION


def test_the_robot_stands_in_the_frame_of_the_markers():
    assert displays()['Global Options']['Fixed Frame'] == BASE_FRAME
