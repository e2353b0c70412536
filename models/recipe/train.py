"""Trains a network on the CPU so that the same seed gives the same weights."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from .dataset import Dataset, Split


def seed_everything(seed: int) -> None:
    """One thread: sums in a fixed order, whatever the number of cores."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def logits(net: nn.Module, inputs: np.ndarray, batch: int = 500) -> torch.Tensor:
    """[K, classes] of inputs [K, ...], with the network in evaluation mode."""
    net.eval()
    with torch.no_grad():
        parts = [net(torch.from_numpy(inputs[i : i + batch])) for i in range(0, len(inputs), batch)]
    return torch.cat(parts)


def validation_loss(net: nn.Module, split: Split) -> float:
    """Mean cross entropy."""
    return float(cross_entropy(logits(net, split.inputs), torch.from_numpy(split.classes)))


def epoch(net: nn.Module, split: Split, optimizer: torch.optim.Optimizer, batch: int) -> None:
    """One pass over the split in a random order."""
    net.train()
    inputs, classes = torch.from_numpy(split.inputs), torch.from_numpy(split.classes)
    for chosen in torch.randperm(len(inputs)).split(batch):
        optimizer.zero_grad()
        loss = cross_entropy(net(inputs[chosen]), classes[chosen], label_smoothing=0.05)
        loss.backward()
        optimizer.step()


def fit(net: nn.Module, data: Dataset, epochs: int, batch: int = 64, rate: float = 3e-3) -> None:
    """Trains in place and leaves the weights of the epoch with the least validation loss."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, kept = float("inf"), net.state_dict()
    for number in range(epochs):
        epoch(net, data.train, optimizer, batch)
        schedule.step()
        loss = validation_loss(net, data.validation)
        print(f"  epoch {number + 1:2}/{epochs}  validation loss {loss:.4f}", flush=True)
        if loss < best:
            best, kept = loss, copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
    net.eval()
