"""The rival of `rival.py` on a GPU: eager, compiled by PyTorch, and as a CUDA graph of its own.

Nothing waits but for the losses, once in a step; what changes from step to step is in memory. Both
layouts of memory are tried eagerly; the faster one is compiled and captured.
"""

from types import SimpleNamespace

import torch

from ssi_cupy.engine.backend import host

from .. import timing
from ..speed.rival import LAYOUTS, Rival

WARM = 4


def allow_tf32(allowed):
    """Whether PyTorch may round what it multiplies; and let it look for its fastest algorithms."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True


class GpuRival(Rival):
    """One training on `device`; `how` is "eager", "compile" or "graph"."""

    def __init__(self, training, layout, how, device="cuda"):
        source = training.source
        plain = SimpleNamespace(
            recipe=training.recipe, steps=training.steps, net=training.net, g=training.g,
            parameters=host(training.parameters),
            source=SimpleNamespace(y=host(source.y), validation=host(source.validation)),
        )  # fmt: skip
        super().__init__(plain, layout, blur="fft")
        self.y, self.validation = self.y.to(device), self.validation.to(device)
        self.net.to(device)
        self.blur.kernel = self.blur.kernel.to(device)
        recipe = self.recipe
        self.optimiser = torch.optim.Adam(
            self.net.parameters(), lr=recipe.lr, weight_decay=recipe.l2, fused=True,
            capturable=how == "graph",
        )  # fmt: skip
        self.density, self.noise, self.sigma = (torch.zeros((), device=device) for _ in range(3))
        self.report = torch.zeros(2, device=device)
        self.measured = self.loss
        if how == "compile":
            self.measured = torch.compile(self.loss, mode="max-autotune")
        self.replay = self._captured() if how == "graph" else self._body

    def _body(self):
        self.net.train()
        hidden = torch.rand(self.validation.shape, device=self.y.device) < self.density
        counted = hidden & ~self.validation
        noisy = self.y + self.noise * torch.randn_like(self.y)
        seen = noisy.masked_fill_(hidden | self.validation, 0)
        self.optimiser.zero_grad(set_to_none=False)
        _, prediction, loss = self.measured(seen, counted)
        loss.backward()
        with torch.no_grad():
            missed = (prediction - self.y).square() * self.validation
            self.report.copy_(torch.stack([loss, missed.sum() / self.validation.sum()]))
        self.optimiser.step()
        with torch.no_grad():
            for p in self.net.parameters():
                p.add_(torch.randn_like(p) * self.sigma)

    def _captured(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._body()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._body()
        return graph.replay

    def step(self):
        recipe = self.recipe
        self.density.fill_(recipe.mask.density(self.done, self.steps))
        self.noise.fill_(recipe.input_noise.level(self.done, self.steps))
        self.done += 1
        self.sigma.fill_(recipe.lr * recipe.weight_noise / self.done)
        self.replay()
        self.history = self.report.tolist()


def variants(training, compiled=False):
    """name → a function that makes (a rival after its first steps, the bytes that it took)."""
    allow_tf32(False)
    fastest = {}

    def make(layout, how):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        rival = GpuRival(training, layout or min(fastest, key=fastest.get), how)
        for _ in range(WARM):
            rival.step()
        torch.cuda.synchronize()
        if how == "eager":
            seconds = timing.alternating(5, step=rival.step)
            fastest[layout] = timing.medians(seconds)["step"]
        return rival, torch.cuda.max_memory_reserved() - before

    found = {f"PyTorch eager, {layout}": (layout, "eager") for layout in LAYOUTS}
    other = ("max-autotune", "compile") if compiled else ("CUDA graph", "graph")
    found[f"PyTorch {other[0]}"] = None, other[1]
    return {name: lambda how=how: make(*how) for name, how in found.items()}
