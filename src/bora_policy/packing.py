"""Residual chains as bytes: safetensors with the facts of the chain in its header, checked whole before anything is used."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from bora_common.errors import BoraError, ModelError
from bora_common.types import Normalizer, WeightsPackage, WeightsVersion
from bora_policy.residual import ResidualChain

FORMAT = 'bora-residual-1'
MAX_BYTES = 256 * 2**20
MAX_ROUNDS = 64


def sha256(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def pack_chain(chain: ResidualChain, version: WeightsVersion, model_id: str) -> bytes:
    """A chain as safetensors bytes; equal chains give equal bytes."""
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in chain.state_dict().items()}
    tensors['normalizer.mean'] = torch.tensor(chain.normalizer.mean)
    tensors['normalizer.std'] = torch.tensor(chain.normalizer.std)
    tensors['bound'] = torch.tensor(chain.bound)
    facts = {
        'format': FORMAT, 'model_id': model_id, 'run': version.run, 'round': version.round, 'update': version.update, **chain.metadata()
    }  # fmt: skip
    return save(tensors, metadata={'bora': json.dumps(facts, sort_keys=True)})


def package(chain: ResidualChain, version: WeightsVersion, model_id: str, stamp_ns: int = 0) -> WeightsPackage:
    """A chain ready for the topic `weights`."""
    data = pack_chain(chain, version, model_id)
    return WeightsPackage(version, chain.alpha, model_id, data, sha256(data), stamp_ns)


def header(data: bytes, what: str = 'weights') -> dict[str, Any]:
    """Facts in a package's header. Raises ModelError."""
    if len(data) < 8 or len(data) > MAX_BYTES:
        raise ModelError(f'{what}: {len(data)} bytes, expected 8 to {MAX_BYTES}')
    size = int.from_bytes(data[:8], 'little')
    try:
        facts = json.loads(json.loads(bytes(data[8 : 8 + size]).decode())['__metadata__']['bora'])
    except (ValueError, KeyError, TypeError):
        raise ModelError(f'{what}: no readable safetensors header with a "bora" entry') from None
    if not isinstance(facts, dict) or facts.get('format') != FORMAT:
        found = facts.get('format') if isinstance(facts, dict) else type(facts).__name__
        raise ModelError(f'{what}: format {found!r}, expected "{FORMAT}"')
    return facts


def _check_facts(facts: dict[str, Any], what: str) -> None:
    alphas = facts.get('alphas')
    alphas = [*alphas, facts.get('alpha')] if isinstance(alphas, list) else [None]
    if not all(isinstance(a, (int, float)) and math.isfinite(a) and 0 <= a <= 1 for a in alphas):
        raise ModelError(f'{what}: every α must be a number in 0..1')
    if len(alphas) > MAX_ROUNDS:
        raise ModelError(f'{what}: {len(alphas)} rounds, expected at most {MAX_ROUNDS}')
    version = (facts.get('run'), facts.get('round'), facts.get('update'))
    if [type(v) for v in version] != [str, int, int]:
        raise ModelError(f'{what}: version {version} is not (run, round, update)')


def unpack_chain(
    data: bytes, *, digest: str | None = None, model_id: str | None = None, like: ResidualChain | None = None, what: str = 'weights'
) -> tuple[ResidualChain, WeightsVersion]:
    """(chain, version) from bytes.

    Checks digest, base model, sizes, joints, normaliser, bound (against `like`), shapes and finiteness; raises ModelError that says which.
    """
    if digest is not None and sha256(data) != digest:
        raise ModelError(f'{what}: SHA-256 is {sha256(data)[:12]}…, expected {digest[:12]}…')
    facts = header(data, what)
    _check_facts(facts, what)
    if model_id is not None and facts.get('model_id') != model_id:
        raise ModelError(f'{what}: made for base model {str(facts.get("model_id"))[:12]}, the loaded one is {model_id[:12]}')
    try:
        tensors = load(bytes(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f'{what}: damaged safetensors: {error}') from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f'{what}: tensor "{name}" holds values that are not finite')
    chain = _build(facts, tensors, what)
    if like is not None:
        _compare(chain, like, what)
    return chain, WeightsVersion(facts['run'], facts['round'], facts['update'])


def _build(facts: dict[str, Any], tensors: dict[str, torch.Tensor], what: str) -> ResidualChain:
    try:
        mean, std, bound = (tensors.pop(k).double().numpy() for k in ('normalizer.mean', 'normalizer.std', 'bound'))
        chain = ResidualChain.from_metadata(facts, Normalizer(mean, std), bound)
    except (BoraError, KeyError, TypeError) as error:
        raise ModelError(f'{what}: unusable header or normaliser: {error}') from None
    expected = {name: tuple(tensor.shape) for name, tensor in chain.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelError(f'{what}: tensor "{name}" has shape {found.get(name)}, expected {expected.get(name)}')
    chain.load_state_dict(tensors)
    return chain


def _compare(chain: ResidualChain, like: ResidualChain, what: str) -> None:
    if chain.joint_names != like.joint_names:
        raise ModelError(f'{what}: made for joints {list(chain.joint_names)}, expected {list(like.joint_names)}')
    for name in ('steps', 'joints', 'tokens', 'width'):
        if getattr(chain.spec, name) != getattr(like.spec, name):
            raise ModelError(f'{what}: {name} is {getattr(chain.spec, name)}, expected {getattr(like.spec, name)}')
    for name, found, expected in (
        ('bound', chain.bound, like.bound),
        ('normaliser mean', chain.normalizer.mean, like.normalizer.mean),
        ('normaliser std', chain.normalizer.std, like.normalizer.std),
    ):
        if not np.allclose(found, expected, rtol=1e-6, atol=1e-9):
            raise ModelError(f'{what}: {name} differs from that of the base model or robot')
