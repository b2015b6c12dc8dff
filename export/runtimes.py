"""ONNX graphs run as the engine's backends run them, for parity: x_BHW in, prob_BK out."""

from stronglens.export.parity import Floats, Scorer


def onnxruntime_cpu(onnx_bytes: bytes) -> tuple[Scorer, str]:
    """Return a scorer and what it is: ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])

    def run(x_BHW: Floats) -> Floats:
        prob_BK: Floats = session.run(["prob"], {"x": x_BHW})[0]
        return prob_BK

    return run, f"ONNX Runtime {onnxruntime.__version__}"


def openvino_cpu(onnx_bytes: bytes, precision: str) -> tuple[Scorer, str]:
    """Return a scorer and what it is: OpenVINO on the CPU in "f32" or "bf16"."""
    import openvino

    core = openvino.Core()
    # always said: OpenVINO takes bfloat16 by itself where the CPU has it
    config = {"INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(core.read_model(onnx_bytes), "CPU", config)
    prob = compiled.output("prob")

    def run(x_BHW: Floats) -> Floats:
        prob_BK: Floats = compiled([x_BHW])[prob].copy()
        return prob_BK

    return run, f"OpenVINO {openvino.__version__.split('-')[0]}"


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 natively, as OpenVINO sees it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
