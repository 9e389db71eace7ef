"""Train a stitch with nothing but PyTorch, and save it the ordinary way: what "Bring your own
stitch" takes.

    python examples/train_stitch.py ACTIVATIONS.pt STITCH.pt

ACTIVATIONS.pt holds `h_a` [n, d_A] and `h_b` [n, d_B]: the residual streams of two models before
the two layers, at positions that have read the same text, as `torch.save({"h_a": h_a, "h_b": h_b},
path)` writes them.
"""

import sys

import torch
from torch import nn


def main(source: str, target: str, steps: int = 600, alpha: float = 1.0) -> None:
    torch.manual_seed(0)
    rows = torch.load(source, weights_only=True)
    h_a, h_b = rows["h_a"].float(), rows["h_b"].float()
    up, down = nn.Linear(h_a.shape[1], h_b.shape[1]), nn.Linear(h_b.shape[1], h_a.shape[1])
    optimiser = torch.optim.Adam([*up.parameters(), *down.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    scale_a, scale_b = h_a.var(0).sum(), h_b.var(0).sum()
    for step in range(steps):
        at = torch.randint(len(h_a), (512,))
        a, b = h_a[at], h_b[at]
        there, back = up(a), down(b)
        loss = (there - b).pow(2).sum(1).mean() / scale_b + (back - a).pow(2).sum(
            1
        ).mean() / scale_a
        loss = (
            loss + alpha * (down(there) - a).pow(2).sum(1).mean() / scale_a
        )  # Eq. 3, both sides of unit variance
        loss = loss + alpha * (up(back) - b).pow(2).sum(1).mean() / scale_b
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:4}  Eq. 3 {loss.item():.3f}")
    torch.save(nn.ModuleDict({"up": up, "down": down}).state_dict(), target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
