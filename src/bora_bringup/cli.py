"""The `bora` command. Subcommands import what they need when they are called."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bora_common.errors import BoraError

INTERRUPTED = 130
LATEST = 'runs/latest'


def main() -> None:
    """Entry point: exit code 0 = done, 1 = a named error or a failed check, 2 = wrong usage, 130 = interrupted.

    Leaves without the interpreter's tear-down, which DDS threads of a client can turn into a crash.
    """
    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Exit code of a command line. Errors are one line."""
    options = _parse(arguments)
    try:
        return options.run(options)
    except BoraError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Positional texts may also stand behind options, which argparse alone does not allow where they are optional."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    pairs = hasattr(options, 'arguments') and all('=' in r and not r.startswith('-') for r in rest)
    folder = options.run is replay_verify and options.run_dir == LATEST and len(rest) == 1 and not rest[0].startswith('-')
    if rest and not (pairs or folder):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    if rest and pairs:
        options.arguments = [*options.arguments, *rest]
    elif rest:
        options.run_dir = rest[0]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='bora', description='Residual reinforcement learning of a dexterous VLA on a robot.')
    commands = parser.add_subparsers(required=True, metavar='command')
    _up(commands)
    _demo(commands)
    _graph(commands)
    _replay(commands)
    _eval(commands)
    _online(commands)
    _train(commands)
    _sim(commands)
    return parser


def _add(commands: Any, name: str, function: Any, help: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=function)
    return parser


# --- bora up -------------------------------------------------------------------------------------------------------------------------


def _up(commands: Any) -> None:
    parser = _add(commands, 'up', up, 'start the graph with plain processes')
    parser.add_argument('graph', choices=('online',))
    parser.add_argument('arguments', nargs='*', metavar='name=value', help='arguments of the graph, as for ros2 launch')
    parser.add_argument('--dry-run', action='store_true', help='say what would be started, start nothing')
    parser.add_argument('--json', action='store_true', help='with --dry-run: as JSON')


def up(options: argparse.Namespace) -> int:
    """Run the graph until Ctrl-C or until a vital process ends."""
    from bora_bringup.graph import online, parse_arguments

    graph = online(parse_arguments(options.arguments))
    if options.dry_run:
        print(json.dumps(graph.to_json(), indent=1) if options.json else _process_table(graph))
        return 0
    return _supervise(graph)


def _process_table(graph: Any) -> str:
    return '\n'.join(f'{p.name:24s}{p.nodes[0].package:24s}{", ".join(n.name for n in p.nodes)}' for p in graph.processes)


def _supervise(graph: Any) -> int:
    from bora_bringup.supervisor import Supervisor

    supervisor = Supervisor(graph)
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _frame: stopping.append(n))
    try:
        supervisor.start()
        print(f'{len(supervisor.pids)} processes up; logs in {graph.run_dir / "logs"}; Ctrl-C ends them')
        while not stopping:
            supervisor.check()
            time.sleep(0.2)
    finally:
        supervisor.stop()
    return 128 + stopping[0]


# --- bora demo -----------------------------------------------------------------------------------------------------------------------


def _demo(commands: Any) -> None:
    parser = _add(commands, 'demo', demo, 'base alone, two rounds of learning on the simulated robot, the same poses again')
    parser.add_argument('--episodes', type=int, default=10, help='online episodes a round')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--eval-episodes', type=int, default=40, help='poses of each evaluation')
    parser.add_argument('--updates', type=int, default=0, help="updates in a round; 0: as the trainer's parameter says")
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--realtime-factor', type=float, default=0.0, help='highest pace of the simulation; 0: as fast as it can')
    parser.add_argument('--operator', default='skilled', help='skilled, late, mediocre or none')
    parser.add_argument('--run-dir', default='', help='runs/<time> when empty')
    parser.add_argument('arguments', nargs='*', metavar='name=value', help='further arguments of the graph')


def demo(options: argparse.Namespace) -> int:
    """Run the demonstration; the exit code."""
    from bora_bringup.demo import Plan, run_demo

    plan = Plan(
        episodes=options.episodes, rounds=options.rounds, eval_episodes=options.eval_episodes, updates=options.updates,
        seed=options.seed, realtime_factor=options.realtime_factor, operator=options.operator, run_dir=options.run_dir,
        arguments=tuple(options.arguments),
    )  # fmt: skip
    return run_demo(plan)


# --- bora graph ----------------------------------------------------------------------------------------------------------------------


def _graph(commands: Any) -> None:
    parser = _add(commands, 'graph', graph, 'the running graph as discovered: nodes, topics, types, QoS, publishers, subscribers')
    parser.add_argument('--json', action='store_true', help='print JSON, and write it to build/graph.json')
    parser.add_argument('--timeout', type=float, default=8.0, help='longest time of discovery in s')


def graph(options: argparse.Namespace) -> int:
    """Print the running graph; 1 when no node is found."""
    from bora_bringup import discovery

    found = discovery.discover(options.timeout)
    if options.json:
        text = json.dumps(found, indent=1)
        Path('build').mkdir(exist_ok=True)
        Path('build/graph.json').write_text(text + '\n')
        print(text)
    else:
        discovery.print_table(found)
    return 0 if found['nodes'] else 1


# --- bora replay ---------------------------------------------------------------------------------------------------------------------


def _replay(commands: Any) -> None:
    actions = commands.add_parser('replay', help='the step log', description='the step log').add_subparsers(required=True, metavar='action')
    parser = _add(actions, 'verify', replay_verify, 'cut a log again; count lost, duplicated and corrupt transitions')
    parser.add_argument('run_dir', nargs='?', default=LATEST, help='folder of a run')
    parser.add_argument('--json', action='store_true')
    parser = _add(actions, 'import', replay_import, 'demonstrations (bora sim demos) as the step log of a new run folder')
    parser.add_argument('demos', help='folder with the .npz files of one task')
    parser.add_argument('--out', required=True, help='run folder to make')
    parser.add_argument('--model', default='', help='name or folder of the base model that proposes; none, and no transitions, when empty')
    parser.add_argument('--stride', type=int, default=8, help='steps between two proposals')
    parser.add_argument('--json', action='store_true')


def replay_verify(options: argparse.Namespace) -> int:
    """Check a step log; 1 when anything is lost, duplicated or corrupt."""
    from bora_replay.steplog import verify

    result = verify(Path(options.run_dir))
    print(json.dumps(result) if options.json else ', '.join(f'{k} {v}' for k, v in result.items()))
    return int(any(result[k] for k in ('lost', 'duplicated', 'corrupt')))


def replay_import(options: argparse.Namespace) -> int:
    """Write demonstrations as a step log."""
    from bora_bringup import environment

    environment.apply()
    from bora_rollout.demonstration_log import convert

    done = convert(Path(options.demos), Path(options.out), options.model, options.stride)
    counts = {
        'demonstrations': len(done), 'successes': sum(d.success for d in done), 'steps': sum(d.steps for d in done),
        'transitions': sum(d.transitions for d in done),
    }  # fmt: skip
    print(json.dumps(counts) if options.json else f'{options.out}: ' + ', '.join(f'{k} {v}' for k, v in counts.items()))
    return 0


# --- without ROS ---------------------------------------------------------------------------------------------------------------------


def _eval(commands: Any) -> None:
    parser = _add(commands, 'eval', evaluate, 'success of a model on the simulated task, in one process')
    parser.add_argument('--task', default='press_button')
    parser.add_argument('--model', default='', help='folder; models/<task> when empty')
    parser.add_argument('--residual', default='', help='residual weights (safetensors); none when empty')
    parser.add_argument('--variant', default='standard', help='standard, unseen or deployment')
    parser.add_argument('--episodes', type=int, default=40)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=1, help='processes')
    parser.add_argument('--failures', default='', help='PNG to write: the last frames of the failed episodes')
    parser.add_argument('--json', action='store_true')


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate in process."""
    from bora_bringup import environment

    environment.apply()
    from bora_common.paths import resolve
    from bora_rollout.evaluate import evaluate as run_evaluation

    model = resolve(options.model or options.task, 'models')
    result = run_evaluation(
        options.task, model, options.residual or None, options.episodes, options.seed, variant=options.variant, workers=options.workers,
        failures=options.failures or None,
    )  # fmt: skip
    if options.json:
        print(json.dumps(result))
    else:
        low, high = result['wilson95']
        print(f'{result["task"]}: {result["successes"]}/{result["trials"]} (Wilson 95 %: {low:.0%} to {high:.0%})')
    return 0


def _online(commands: Any) -> None:
    parser = _add(commands, 'online', online, 'rounds of online learning between two evaluations, in one process')
    parser.add_argument('--task', default='press_button')
    parser.add_argument('--model', default='', help='folder; models/<task> when empty')
    parser.add_argument('--variant', default='deployment', help='standard, unseen or deployment')
    parser.add_argument('--operator', default='skilled', help='skilled, late, mediocre or none')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--episodes', type=int, default=10, help='online episodes a round')
    parser.add_argument('--trials', type=int, default=100, help='poses of each evaluation')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', action='store_true')


def online(options: argparse.Namespace) -> int:
    """Learn in process."""
    from bora_bringup import environment

    environment.apply()
    from bora_common.paths import resolve
    from bora_rollout.online import run as run_online

    names = ('variant', 'operator', 'rounds', 'episodes', 'trials', 'seed')
    result = run_online(options.task, resolve(options.model or options.task, 'models'), **{n: getattr(options, n) for n in names})
    if options.json:
        print(json.dumps(result))
    else:
        base, final = result['base_success'], result['final_success']
        print(f'{result["task"]}: base {base["successes"]}/{base["trials"]}, final {final["successes"]}/{final["trials"]}')
    return 0


def _train(commands: Any) -> None:
    parser = _add(commands, 'train', train, 'build a model from demonstrations: behaviour cloning, offline transitions, critic')
    parser.add_argument('--out', default='', help='folder; models/<task> when empty')
    parser.add_argument('rest', nargs=argparse.REMAINDER, help='"offline" and its options (bora train offline --help)')


def train(options: argparse.Namespace) -> int:
    """Hand over to bora_rollout.models, or to the offline phase alone."""
    from bora_bringup import environment

    environment.apply()
    if options.rest[:1] == ['offline']:
        from bora_rollout import training

        return training.train([*(['--run.out', options.out] if options.out else []), *options.rest[1:]])
    from bora_rollout import models

    return models.main([*(['--out', options.out] if options.out else []), *options.rest]) or 0


def _sim(commands: Any) -> None:
    parser = _add(commands, 'sim', sim_demos, 'the simulated robot')
    parser.add_argument('action', choices=('demos',))
    parser.add_argument('--task', default='press_button')
    parser.add_argument('--episodes', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--poor-fraction', type=float, default=0.2)
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--out', required=True, help='folder of the demonstrations')


def sim_demos(options: argparse.Namespace) -> int:
    """Collect demonstrations of the scripted expert."""
    from bora_bringup import environment

    environment.apply()
    from bora_rollout.demonstrations import collect

    collect(options.task, options.episodes, options.seed, options.poor_fraction, options.workers, Path(options.out))
    return 0


if __name__ == '__main__':
    main()
