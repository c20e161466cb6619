"""A training script of your own, plain PyTorch: tuner starts it once for each trial.

tuner run pytorch_script.yaml --config worker.toml

By hand:  echo '{"params": {"lr": 0.1, "hidden": 32, "batch_size": 64}, "max_step": 3}' > trial.json
          TUNER_TRIAL=trial.json python pytorch_script.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tuner.trial

trial = tuner.trial.current()
torch.manual_seed(trial.seed)

digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
train = DataLoader(
    TensorDataset(x[:1200], y[:1200]), batch_size=trial.params["batch_size"], shuffle=True
)
hidden = trial.params["hidden"]
model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"], momentum=0.9)

# A trial that is set aside, or whose worker died, goes on from here.
checkpoint = trial.checkpoint_dir / "state.pt"
start = 0
if checkpoint.exists():
    state = torch.load(checkpoint)
    start = state["epoch"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])

for epoch in range(start + 1, trial.max_step + 1):
    model.train()
    for inputs, targets in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        output = model(x[1200:])
        loss = nn.functional.cross_entropy(output, y[1200:])
        accuracy = (output.argmax(1) == y[1200:]).float().mean()
    print(f"epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.3f}", flush=True)
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({"epoch": epoch, **states}, checkpoint)
    if trial.report(epoch, loss=loss, accuracy=accuracy):
        break
