"""The frozen vision-language-action model: PaliGemma's interface with a learned cognition token, and the action expert behind it.

The language model reads, in this order: every camera's image tokens, the instruction, the cognition token. z holds, of its output, one
token per camera and the cognition token last. Vision tower, projector and language model are transformers' own classes, built from a
config: a small one for the shipped models, or a genuine PaliGemma.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from bora_common.errors import BoraError, ModelError
from bora_common.types import JointLayout, Normalizer
from bora_policy.diffusion import DiffusionExpert
from bora_policy.expert import ConsistencyExpert
from bora_policy.manifest import ModelFacts, read_manifest, write_manifest
from bora_policy.tokenizer import build_tokenizer, encode_instructions, load_tokenizer
from bora_policy.vision import ConvVisionConfig

FORMAT = 'bora-vla-1'
CONFIG, TENSORS, TOKENIZER, NORMALIZER = 'config.json', 'model.safetensors', 'tokenizer.json', 'normalizer.json'
FILES = (CONFIG, TENSORS, TOKENIZER, NORMALIZER)
EXPERTS = {'consistency': ConsistencyExpert, 'diffusion': DiffusionExpert}
TIED = 'vlm.lm_head.weight'  # the embedding's own tensor, stored once


@dataclass(frozen=True)
class VLAConfig:
    """How a model is built, beside its facts. `vlm` is a PaliGemma config as a mapping."""

    vlm: dict[str, Any]
    camera_readout: str = 'first'  # token of z per camera: "first" of its image tokens, or their "mean"
    instruction_length: int = 16
    knots: int = 8
    hidden: int = 256
    blocks: int = 3
    expert: str = 'consistency'  # or "diffusion"; files that do not say are older than the other
    denoise_steps: int = 0  # 0 takes the expert's usual number: 1, or 10 with diffusion

    def __post_init__(self) -> None:
        if self.camera_readout not in ('first', 'mean'):
            raise ModelError(f'{CONFIG}: camera_readout {self.camera_readout!r}, expected "first" or "mean"')
        if self.expert not in EXPERTS:
            raise ModelError(f'{CONFIG}: expert {self.expert!r}, expected {" or ".join(map(repr, EXPERTS))}')
        usual, most = EXPERTS[self.expert].STEPS
        object.__setattr__(self, 'denoise_steps', self.denoise_steps or usual)
        if not 1 <= self.denoise_steps <= most:
            raise ModelError(f'{CONFIG}: denoise_steps {self.denoise_steps!r}, expected 1 to {most} with the {self.expert} expert')


def small_vlm(image_size: int, vocabulary: int, width: int = 128, layers: int = 2) -> dict[str, Any]:
    """PaliGemma config of the shipped models: the convolutional tower and a Gemma of `layers` layers."""
    vision = ConvVisionConfig(image_size=image_size, patch_size=image_size // 4, hidden_size=width, projection_dim=width)
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config={
            'model_type': 'gemma', 'vocab_size': vocabulary, 'hidden_size': width, 'intermediate_size': 2 * width,
            'num_hidden_layers': layers, 'num_attention_heads': 4, 'num_key_value_heads': 4, 'head_dim': width // 4,
        },
        projection_dim=width, hidden_size=width, vocab_size=vocabulary, image_token_index=vocabulary - 1,
    )  # fmt: skip
    return json.loads(config.to_json_string(use_diff=False))


class BoraVLA(nn.Module):
    """VLM with cognition token, action expert, normaliser and tokenizer."""

    def __init__(self, config: VLAConfig, facts: ModelFacts, normalizer: Normalizer, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.facts, self.normalizer, self.tokenizer = config, facts, normalizer, tokenizer
        self.layout = JointLayout(facts.joint_names)
        self.model_id = ''  # known once saved or loaded
        self.vlm = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**_own(config.vlm)))
        width = self.vlm.config.text_config.hidden_size
        expected = (*(f'camera_{c}' for c in facts.camera_names), 'cognition')
        if facts.token_names != expected or facts.token_width != width:
            found = f'{facts.token_names} of width {facts.token_width}'
            raise ModelError(f'model: tokens {found}, the config gives {expected} of width {width}')
        if normalizer.mean.shape != (len(self.layout),):
            raise ModelError(f'model: normaliser of {normalizer.mean.shape} for {len(self.layout)} joints')
        self.camera_embedding = nn.Parameter(0.02 * torch.randn(len(facts.camera_names), width))
        self.cognition = nn.Parameter(0.02 * torch.randn(width))
        self.expert = EXPERTS[config.expert](
            facts.steps, len(self.layout), len(facts.token_names), width, config.knots, config.hidden, config.blocks
        )  # fmt: skip
        self.register_buffer('mean', torch.tensor(normalizer.mean, dtype=torch.float32), persistent=False)
        self.register_buffer('std', torch.tensor(normalizer.std, dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.cognition.device

    # --- tensors ----------------------------------------------------------------------------------------------------------------

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images [B,C,H,W,3] -> [B,C,3,H,W] in -1..1."""
        return images.permute(0, 1, 4, 2, 3).to(self.cognition.dtype).div_(127.5).sub_(1.0)

    def instruction_ids(self, instructions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, mask), each [B,L]; L is that of the longest instruction: attending to padding would cost time and change nothing."""
        ids, mask = encode_instructions(self.tokenizer, instructions, self.config.instruction_length)
        length = max(1, int(mask.sum(1).max()))
        ids, mask = ids[:, :length], mask[:, :length]
        return torch.as_tensor(ids, device=self.device), torch.as_tensor(mask, device=self.device)

    def tokens(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """z [B,T,W] from pixels [B,C,3,H,W] and instruction ids and mask [B,L]."""
        b, cameras = pixels.shape[:2]
        features = self.vlm.get_image_features(pixels.flatten(0, 1))
        features = features if isinstance(features, torch.Tensor) else features.pooler_output
        count = features.shape[1]
        images = features.view(b, cameras, count, -1) + self.camera_embedding[:, None]
        text = self.vlm.get_input_embeddings()(ids)
        sequence = torch.cat([images.flatten(1, 2), text, self.cognition.expand(b, 1, -1)], dim=1)
        ones = mask.new_ones(b, cameras * count)
        attention = torch.cat([ones, mask, mask.new_ones(b, 1)], dim=1)
        hidden = self.vlm.model(  # token type 0: all of it is PaliGemma's prefix, read in both directions
            inputs_embeds=sequence, attention_mask=attention, token_type_ids=torch.zeros_like(attention),
            position_ids=attention.cumsum(1), use_cache=False,
        ).last_hidden_state  # fmt: skip
        seen = hidden[:, : cameras * count].view(b, cameras, count, -1)
        seen = seen[:, :, 0] if self.config.camera_readout == 'first' else seen.mean(2)
        return torch.cat([seen, hidden[:, -1:]], dim=1)

    def normalize(self, positions: torch.Tensor) -> torch.Tensor:
        """rad [..,D] -> z-scored."""
        return (positions - self.mean) / self.std

    # --- arrays -----------------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, images: np.ndarray, instructions: Sequence[str]) -> torch.Tensor:
        """z [B,T,W] from uint8 images [B,C,H,W,3] (cameras in `facts.camera_names` order)."""
        size, cameras = self.facts.image_size, len(self.facts.camera_names)
        if images.dtype != np.uint8 or images.shape[1:] != (cameras, size, size, 3):
            raise ModelError(f'images {images.dtype} {images.shape[1:]}, the model takes uint8 {(cameras, size, size, 3)}')
        pixels = self.pixels(torch.as_tensor(np.ascontiguousarray(images), device=self.device))
        return self.tokens(pixels, *self.instruction_ids(instructions)).float()

    @torch.inference_mode()
    def propose(
        self, images: np.ndarray, proprio: np.ndarray, instructions: Sequence[str], noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(z float32 [B,T,W], positions [B,k,D] rad) from images, proprio [B,D] rad, instructions and noise [n,B,K,D].

        n is the number of denoising steps.
        """
        tokens = self.encode(images, instructions)
        state = torch.as_tensor(self.normalizer.normalize(proprio).astype(np.float32), device=self.device)
        chunk = self.expert.sample(tokens, state, torch.as_tensor(noise.astype(np.float32), device=self.device))
        return tokens.cpu().numpy(), self.normalizer.denormalize(chunk.cpu().numpy().astype(np.float64))

    # --- files ------------------------------------------------------------------------------------------------------------------

    def save_pretrained(self, path: str | Path) -> str:
        """Write the model directory, replacing an older one whole; the model's id."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, old = path.with_name(f'.{path.name}.new'), path.with_name(f'.{path.name}.old')
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        _dump(temporary / CONFIG, {'format': FORMAT, **asdict(self.config)})
        _dump(temporary / NORMALIZER, {'mean': self.normalizer.mean.tolist(), 'std': self.normalizer.std.tolist()})
        (temporary / TOKENIZER).write_text(self.tokenizer.to_str(pretty=True) + '\n')
        state = {n: t.detach().cpu().contiguous() for n, t in self.state_dict().items() if n != TIED}
        save_file(state, temporary / TENSORS)
        self.model_id = write_manifest(temporary, self.facts, FILES)
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
        return self.model_id

    @staticmethod
    def from_pretrained(path: str | Path, **expected: Any) -> BoraVLA:
        """A model from its directory, in evaluation mode. `expected`: facts it must have (joint_names, camera_names, image_size, …).

        Raises ModelError naming file and expectation on anything missing, damaged or made for something else.
        """
        path = Path(path)
        facts, model_id = read_manifest(path, FILES)
        facts.expect(path, **expected)
        config = _load_json(path / CONFIG)
        if config.pop('format', None) != FORMAT:
            raise ModelError(f'{path / CONFIG}: format is not "{FORMAT}"')
        normalizer = load_normalizer(path)
        try:
            model = BoraVLA(VLAConfig(**config), facts, normalizer, load_tokenizer(path / TOKENIZER))
        except (KeyError, TypeError, ValueError, BoraError) as error:
            raise ModelError(f'{path}: can not be built: {error}') from None
        model._load_tensors(path / TENSORS)
        model.model_id = model_id
        return model.requires_grad_(False).eval()

    def _load_tensors(self, path: Path) -> None:
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f'{path}: damaged safetensors: {error}') from None
        expected = {n: tuple(t.shape) for n, t in self.state_dict().items() if n != TIED}
        found = {n: tuple(t.shape) for n, t in tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ModelError(f'{path}: tensor "{name}" has shape {found.get(name)}, expected {expected.get(name)}')
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ModelError(f'{path}: tensor "{name}" holds values that are not finite')
        self.load_state_dict(tensors, strict=False)


def build(
    layout: JointLayout,
    cameras: Sequence[str],
    normalizer: Normalizer,
    *,
    instructions: Sequence[str] = (),
    image_size: int = 64,
    steps: int = 32,
    horizon: int = 16,
    dt: float = 1 / 15,
    vlm: dict[str, Any] | None = None,
    **settings: Any,
) -> BoraVLA:
    """A new model with random weights: the small one, or one of the PaliGemma config `vlm`. `settings`: fields of VLAConfig."""
    tokenizer = build_tokenizer(instructions)
    vlm = vlm or small_vlm(image_size, tokenizer.get_vocab_size() + 1)
    names = (*(f'camera_{c}' for c in cameras), 'cognition')
    width = PaliGemmaConfig(**_own(vlm)).text_config.hidden_size
    facts = ModelFacts(layout.names, tuple(cameras), names, width, image_size, steps, horizon, dt)
    return BoraVLA(VLAConfig(vlm=vlm, **settings), facts, normalizer, tokenizer)


def load_normalizer(folder: Path) -> Normalizer:
    """A model directory's normaliser. Raises ModelError naming the file."""
    values = _load_json(Path(folder) / NORMALIZER)
    try:
        return Normalizer(values['mean'], values['std'])
    except (KeyError, TypeError, ValueError, BoraError) as error:
        raise ModelError(f'{Path(folder) / NORMALIZER}: not a normaliser: {error}') from None


def _own(vlm: dict[str, Any]) -> dict[str, Any]:
    """A copy that transformers may change while it builds a config from it."""
    return json.loads(json.dumps(vlm))


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + '\n')


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f'{path}: not readable as JSON: {error}') from None
    if not isinstance(content, dict):
        raise ModelError(f'{path}: must hold a mapping')
    return content
