"""A character transformer on Alice in Wonderland: a plain torchrun script that knows nothing of disttrain.

    torchrun --nproc-per-node 2 examples/text/train.py --steps 100

It reads what torchrun sets (RANK, WORLD_SIZE, MASTER_ADDR, …), averages gradients with DistributedDataParallel and, if
DISTTRAIN_JOB_DIR names a folder, keeps its state there, so that a restarted run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

TEXT = Path(__file__).with_name("alice.txt")
CONTEXT = 64


class Transformer(nn.Module):
    """Predicts the next character from up to 64 before it."""

    def __init__(self, characters: int, width: int = 96, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.token = nn.Embedding(characters, width)
        self.place = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, characters)

    def forward(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=text.device)
        hidden = self.token(text) + self.place(torch.arange(length, device=text.device))
        return self.head(self.layers(hidden, mask=mask, is_causal=True))


class State:
    """Model, optimizer and step in one file, replaced as a whole. No pickle."""

    def __init__(self, folder: str | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path = Path(folder) / "text.safetensors" if folder else None
        self.model, self.optimizer = model, optimizer

    def load(self) -> int:
        """The step to go on from."""
        if self.path is None or not self.path.exists():
            return 0
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            step = int(file.metadata()["step"])
        self.model.load_state_dict({name: tensors[f"model.{name}"] for name in self.model.state_dict()})
        for number, parameter in enumerate(self.model.parameters()):
            self.optimizer.state[parameter] = {
                name: tensors[f"optimizer.{number}.{name}"].to("cpu" if name == "step" else parameter.device)
                for name in ("step", "exp_avg", "exp_avg_sq")
            }
        return step

    def save(self, step: int) -> None:
        """Write beside, flush, rename: a crash leaves the old file or the new one."""
        if self.path is None:
            return
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        for number, parameter in enumerate(self.model.parameters()):
            tensors |= {f"optimizer.{number}.{name}": v for name, v in self.optimizer.state[parameter].items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        save_file(tensors, draft, metadata={"step": str(step)})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(self.path)


def windows(text: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random pieces of the text, and the same one character later."""
    starts = torch.randint(len(text) - CONTEXT - 1, (count,), generator=torch.Generator().manual_seed(seed))
    pieces = torch.stack([text[start : start + CONTEXT + 1] for start in starts.tolist()]).long()
    return pieces[:, :-1], pieces[:, 1:]


def mean_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def write_on(model: nn.Module, alphabet: str, start: str, length: int) -> str:
    """Let the model continue a text."""
    device = next(model.parameters()).device
    text = [alphabet.index(c) for c in start]
    with torch.no_grad():
        for _ in range(length):
            logits = model(torch.tensor([text[-CONTEXT:]], device=device))[0, -1]
            text.append(int(torch.multinomial(torch.softmax(logits / 0.7, dim=0), 1)))
    return "".join(alphabet[i] for i in text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small transformer on Alice in Wonderland.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16, help="pieces of text per process and step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=50)
    options = parser.parse_args()

    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    torch.manual_seed(0)

    content = TEXT.read_text()
    alphabet = "".join(sorted(set(content)))
    text = torch.tensor([alphabet.index(c) for c in content], dtype=torch.uint8)
    training, validation = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]

    model = Transformer(len(alphabet)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    state = State(os.environ.get("DISTTRAIN_JOB_DIR"), model, optimizer)
    start = state.load()
    replica = DistributedDataParallel(model)
    if rank == 0:
        print(
            f"{world} processes, {sum(p.numel() for p in model.parameters()):,} parameters, from step {start}",
            flush=True,
        )

    began = time.monotonic()
    for step in range(start, options.steps):
        torch.manual_seed(step * world + rank)  # dropout, too, is the same when a step is run again
        inputs, targets = (part.to(device) for part in windows(training, options.batch, seed=step * world + rank))
        optimizer.zero_grad()
        loss = mean_loss(replica, inputs, targets)
        loss.backward()
        optimizer.step()
        done = step + 1
        if rank == 0 and (done % 10 == 0 or done == options.steps):
            print(f"step {done}/{options.steps}  loss {loss.item():.3f}  {time.monotonic() - began:.1f} s", flush=True)
        if rank == 0 and (done % options.save_every == 0 or done == options.steps):
            state.save(done)

    model.eval()
    with torch.no_grad():
        inputs, targets = (part.to(device) for part in windows(validation, 32, seed=rank))
        total = mean_loss(model, inputs, targets)
    dist.all_reduce(total)
    if rank == 0:
        print(f"validation loss {total.item() / world:.3f} after {options.steps} steps")
        print(write_on(model, alphabet, "Alice ", 120))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
