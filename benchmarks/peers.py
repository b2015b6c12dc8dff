"""The ways to score files that lens-infer is measured against, each in a process of its own.

    python benchmarks/peers.py CONTENDER RUN BUNDLE LIST OUT

LIST names the files, one a line. Scores them once, after one batch of each size that is not
counted, and writes OUT (.npz): prob_NK and the seconds from the first file to the last
probability. What cannot run here says why on stderr and exits with 1.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from reference import Case, NotebookDataset, read_case
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from stronglens.engine.machine import cpu_flags
from stronglens.export.graph import serving
from stronglens.training.models import Classifier, LensFinder

BATCH, WORKERS = 32, 2

Batches = Iterable[Any]
Score = Callable[[Tensor], Any]
Contender = tuple[Callable[[], Batches], Score]


def loader(data: NotebookDataset) -> Batches:
    """Return the reference's loader."""
    return DataLoader(data, BATCH, num_workers=WORKERS)


def score_torch(case: Case, net: Callable[[Tensor], Any], x_B1HW: Tensor) -> Any:
    """Return prob_BK of a net that takes (B, H, W)."""
    out = net(x_B1HW.to(case.device).squeeze(1))
    return (out[0] if isinstance(out, tuple) else out).float().cpu().numpy()


def half(case: Case) -> torch.autocast:
    """Return autocast to the half precision that the device computes in, or stop."""
    if case.device.type == "cuda":
        return torch.autocast("cuda", torch.float16)
    if not {"avx512_bf16", "amx_bf16"} & (cpu_flags() or set()):
        sys.exit("this CPU has no native bfloat16")
    return torch.autocast("cpu", torch.bfloat16)


def notebook(case: Case) -> Contender:
    """torch eager float32: what the reference does."""
    return partial(loader, case.resized), partial(score_torch, case, case.graph)


def torch_half(case: Case) -> Contender:
    """channels_last and autocast: torch's own advice."""
    net = case.graph.to(memory_format=torch.channels_last)
    score = half(case)(partial(score_torch, case, net))
    return partial(loader, case.resized), score


def torch_compiled(case: Case) -> Contender:
    """The same, compiled by inductor with its weights frozen, which suits inference best."""
    import torch._inductor.config

    if case.device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        sys.exit("on a CPU it needs a C++ compiler, g++ or what CXX names")
    torch._inductor.config.freezing = True
    net = torch.compile(case.graph.to(memory_format=torch.channels_last), dynamic=False)
    return partial(loader, case.resized), half(case)(partial(score_torch, case, net))


def timm_way(case: Case) -> Contender:
    """timm's net with the run's weights, and its inference script's loader and loop."""
    try:
        from timm.data.loader import create_loader
    except ModuleNotFoundError:
        sys.exit("timm is not installed: pip install -e '.[bench]'")
    net = timm_net(case.net).eval().to(case.device)
    check_same(net, case)
    net = net.to(memory_format=torch.channels_last)
    data: Any = case.resized  # timm's annotations name its own datasets only
    side = data[0][0].shape[-1]
    batches = partial(
        create_loader,
        data,
        input_size=(1, side, side),
        batch_size=BATCH,
        mean=(0.0,),
        std=(1 / 255,),  # of pixels up to 255: these are left as they are
        num_workers=WORKERS,
        collate_fn=default_collate,  # timm's own makes whole numbers of the pixels
        device=case.device,
    )
    score = half(case)(lambda x_B1HW: net(x_B1HW).softmax(-1).float().cpu().numpy())
    return batches, score


def timm_net(trained: nn.Module) -> nn.Module:
    """Return timm's net (B, 1, H, W) → logits_BK with a trained net's weights."""
    import timm

    if isinstance(trained, LensFinder):
        tail = serving(trained).graph.tail
        encoder = timm.create_model("resnet18", in_chans=1, num_classes=0)
        encoder.load_state_dict(trained.encoder.get_submodule("body").state_dict())
        return nn.Sequential(encoder, *map(tail.get_submodule, ("projection", "head")))
    if not (isinstance(trained, Classifier) and isinstance(trained.head, nn.Linear)):
        sys.exit("timm has no such net")
    net = timm.create_model("resnext50_32x4d", in_chans=1, num_classes=trained.head.out_features)
    head = {f"fc.{name}": weight for name, weight in trained.head.state_dict().items()}
    net.load_state_dict(trained.body.state_dict() | head)
    return net


@torch.inference_mode()
def check_same(net: nn.Module, case: Case) -> None:
    """Stop unless timm's net, in float32, gives what ours gives."""
    x_B1HW = torch.stack([case.resized[i][0] for i in range(min(4, len(case.paths)))])
    prob_BK = net(x_B1HW.to(case.device)).softmax(-1).float().cpu().numpy()
    if (apart := np.abs(prob_BK - score_torch(case, case.graph, x_B1HW)).max()) > 1e-4:
        raise AssertionError(f"timm's net is another net: max |Δp| {apart:.1e}")


def onnxruntime(case: Case) -> Contender:
    """ONNX Runtime as it comes, float32."""
    import onnxruntime as ort

    provider = f"{case.device.type.upper()}ExecutionProvider"
    session = ort.InferenceSession(str(case.bundle.graph("float32")), providers=[provider])
    if (found := session.get_providers()[0]) != provider:
        sys.exit(f"ONNX Runtime runs on {found} here, not on {provider}")
    name = session.get_inputs()[0].name
    return partial(loader, case.stored), (
        lambda x_B1HW: session.run(["prob"], {name: x_B1HW.numpy()[:, 0]})[0]
    )


def openvino(case: Case) -> Contender:
    """OpenVINO as it comes, float32."""
    if case.device.type != "cpu":
        sys.exit("OpenVINO runs on the CPU")
    import openvino as ov

    model = ov.Core().compile_model(
        str(case.bundle.graph("float32")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return partial(loader, case.stored), (lambda x_B1HW: model(x_B1HW.numpy()[:, 0])["prob"])


CONTENDERS: dict[str, Callable[[Case], Contender]] = {
    function.__name__: function
    for function in (notebook, torch_half, torch_compiled, timm_way, onnxruntime, openvino)
}


@torch.inference_mode()
def main(name: str, run: Path, bundle: Path, listed: Path, out: Path) -> None:
    case = read_case(run, bundle, listed.read_text().splitlines())
    batches, score = CONTENDERS[name](case)
    sizes = {min(BATCH, len(case.paths)), len(case.paths) % BATCH or BATCH}
    first = next(iter(batches()))[0]
    for size in sizes:
        score(first[:size])
    start = perf_counter()
    prob_NK = np.concatenate([score(x_B1HW) for x_B1HW, _ in batches()])
    np.savez(out, prob_NK=prob_NK, seconds=perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
