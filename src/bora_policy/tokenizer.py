"""The instruction tokenizer that a model directory ships: lower-case words from a fixed list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from bora_common.errors import ModelError

SPECIAL = ('<pad>', '<unk>')
WORDS = (
    'a and at basket box button by close down drawer drop fully grasp hold in inside into it left lid lift move object of off on one '
    'open out package paper pick place plush press pull push put red release right sheet side soft stop table take the then tissue to '
    'toy until up whole with'
)


def build_tokenizer(instructions: Iterable[str] = ()) -> Tokenizer:
    """A word-level tokenizer over the usual words of manipulation tasks and those of `instructions`."""
    words = set(WORDS.split())
    splitter = pre_tokenizers.Whitespace()
    for text in instructions:
        words.update(word for word, _ in splitter.pre_tokenize_str(text.lower()))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *sorted(words)])}, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer from its JSON file. Raises ModelError naming the file."""
    try:
        return Tokenizer.from_str(path.read_text())
    except Exception as error:  # the library raises bare Exception for every defect of the file
        raise ModelError(f'{path}: not a tokenizer: {error}') from None


def encode_instructions(tokenizer: Tokenizer, instructions: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids [B,length], mask [B,length]) of instructions, padded on the right and cut at `length` tokens."""
    ids = np.zeros((len(instructions), length), dtype=np.int64)
    mask = np.zeros((len(instructions), length), dtype=np.int64)
    for row, text in enumerate(instructions):
        found = tokenizer.encode(text).ids[:length]
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return ids, mask
