"""Puts the toy world on the path and keeps torch on one thread."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for learner_toy
torch.set_num_threads(1)
