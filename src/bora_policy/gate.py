"""The gate in front of new residual weights: what is damaged, old, foreign or too far from what plays now is refused with a reason."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bora_common.errors import ModelError
from bora_common.types import Proposal, WeightsPackage, WeightsVersion
from bora_policy.packing import header, unpack_chain
from bora_policy.residual import ResidualChain


@dataclass(frozen=True)
class Decision:
    """Outcome for one package; `jump` is the largest change of any joint on the remembered observations, rad."""

    accepted: bool
    reason: str
    version: WeightsVersion
    jump: float = 0.0


class WeightsGate:
    """Holds the chain in use and decides on its successors. Not thread-safe: one owner calls it between chunks."""

    def __init__(self, zero: ResidualChain, model_id: str, max_jump: float, state_dir: Path | None = None, history: int = 16):
        """`zero`: the chain of no weights, which names sizes, joints, normaliser and bound.

        `max_jump`: largest accepted change of a joint's final position on the last `history` observations, as a multiple of the
        joint's bound.
        `state_dir`: where the last accepted package is kept across restarts.
        """
        self._zero, self._model_id, self._max_jump, self._dir = zero, model_id, max_jump, state_dir
        self._seen: deque[Proposal] = deque(maxlen=history)
        self._left_runs: set[str] = set()
        self.chain, self.version, self._digest = zero, WeightsVersion(), ''

    def remember(self, proposal: Proposal) -> None:
        """Keep an observation's proposal for the jump check."""
        self._seen.append(proposal)

    def consider(self, weights: WeightsPackage) -> Decision:
        """Accept `weights` (then `chain` and `version` are theirs) or refuse them; nothing changes on a refusal."""
        if weights.version == self.version and weights.sha256 == self._digest:
            return Decision(True, 'already in use', self.version)  # a late joiner is sent the last package again
        try:
            if weights.model_id != self._model_id:
                raise ModelError(f'weights: made for base model {weights.model_id[:12]}, the loaded one is {self._model_id[:12]}')
            chain, version = unpack_chain(weights.data, digest=weights.sha256, model_id=self._model_id, like=self._zero)
            if version != weights.version or abs(chain.alpha - weights.alpha) > 1e-9:
                raise ModelError(
                    f'weights: header says {version} at α {chain.alpha:g}, the message {weights.version} at α {weights.alpha:g}'
                )
            self._check_newer(version)
            jump = self._check_jump(chain)
        except ModelError as error:
            return Decision(False, str(error), weights.version)
        if self._dir is not None:
            _store(self._dir, weights)
        if self.version.run and self.version.run != version.run:
            self._left_runs.add(self.version.run)
        self.chain, self.version, self._digest = chain, version, weights.sha256
        compared = f'largest change {jump:.4f} rad on {len(self._seen)} observations' if self._seen else 'no observations to compare on'
        return Decision(True, compared, version, jump)

    def _check_newer(self, version: WeightsVersion) -> None:
        if not version.run:
            raise ModelError('weights: version without a run')
        if version.run in self._left_runs:
            raise ModelError(f'weights: run {version.run} was left for {self.version.run}')
        if version.run == self.version.run and (version.round, version.update) <= (self.version.round, self.version.update):
            raise ModelError(f'weights: {version} is not newer than {self.version}')

    def _check_jump(self, chain: ResidualChain) -> float:
        if not self._seen:
            return 0.0
        batch = [np.stack([getattr(p, name) for p in self._seen]) for name in ('positions', 'tokens', 'proprio')]
        change = np.abs(chain.apply_batch(*batch)[1] - self.chain.apply_batch(*batch)[1]).max(axis=(0, 1))
        if not np.all(np.isfinite(change)):
            raise ModelError('weights: corrections are not finite on the last observations')
        limit = self._max_jump * self._zero.bound
        worst = int(np.argmax(change / limit))
        if change[worst] > limit[worst]:
            raise ModelError(
                f'weights: would move "{chain.joint_names[worst]}" by {change[worst]:.4f} rad on the last observations, '
                f'limit {limit[worst]:.4f} rad'
            )
        return float(change.max())

    def restore(self) -> Decision | None:
        """Take up the last accepted package from disk; None where there is none. A damaged or foreign one is refused."""
        if self._dir is None or not (self._dir / 'accepted.json').is_file():
            return None
        try:
            weights = _read(self._dir)
            chain, version = unpack_chain(
                weights.data, digest=weights.sha256, model_id=self._model_id, like=self._zero, what='stored weights'
            )
        except ModelError as error:
            return Decision(False, str(error), WeightsVersion())
        self.chain, self.version, self._digest = chain, version, weights.sha256
        return Decision(True, 'restored from disk', version)


def _write_atomic(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(path.suffix + '.tmp')
    with open(temporary, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _store(folder: Path, weights: WeightsPackage) -> None:
    """The weights first, under their digest's name, then the file that points to them: a crash in between keeps the old pair."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f'residual-{weights.sha256[:16]}.safetensors'
    _write_atomic(folder / name, weights.data)
    _write_atomic(folder / 'accepted.json', json.dumps({'file': name, 'sha256': weights.sha256}).encode())
    for old in folder.glob('residual-*.safetensors'):
        if old.name != name:
            old.unlink()


def _read(folder: Path) -> WeightsPackage:
    pointer = folder / 'accepted.json'
    try:
        entry = json.loads(pointer.read_text())
        data = (folder / Path(entry['file']).name).read_bytes()
        digest = str(entry['sha256'])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f'stored weights: {pointer}: {error}') from None
    facts = header(data, 'stored weights')
    version = WeightsVersion(facts.get('run', ''), facts.get('round', 0), facts.get('update', 0))
    return WeightsPackage(version, facts.get('alpha', 0.0), facts.get('model_id', ''), data, digest)
