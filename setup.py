"""Packaging; tool settings live in pyproject.toml.

The folders `engine`, `training` and `export` are installed as `stronglens.engine`,
`stronglens.training` and `stronglens.export`: their bare names are too common to claim.
"""

from pathlib import Path

from setuptools import setup

FOLDERS = ("engine", "training", "export")

# Where onnxruntime-gpu has wheels; its plain twin goes everywhere else. The two overwrite each
# other's files, so the markers must never both hold.
GPU_WHEELS = "(sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'"
NO_GPU_WHEELS = (
    "(sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'win32'"
)

REQUIRES = [
    "click>=8.1",
    "matplotlib>=3.9",
    "numba>=0.61",
    "numpy>=2.0",
    "onnx>=1.18",
    f"onnxruntime-gpu>=1.27; {GPU_WHEELS}",
    f"onnxruntime>=1.27; {NO_GPU_WHEELS}",
    "onnxscript>=0.5",  # torch.onnx.export needs it and does not bring it
    "openvino>=2025.3",
    "pillow>=11",
    "safetensors>=0.5",
    "scikit-learn>=1.5",
    "scipy>=1.14",
    "torch>=2.9",
    "torchvision>=0.24",
]

# NVIDIA's real parser and builder, on a CPU: bindings from one package, their libraries from
# another. Neither requires anything, so onnxruntime-gpu stays as it is.
RTX_WHEELS = "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.15'"
RTX = [
    f"tensorrt-rtx-cu13-bindings==1.7.1.116; {RTX_WHEELS}",
    f"onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0; {RTX_WHEELS}",
]

# What reads and writes other formats than .npy, .npz, tar, pictures, plain FITS images and CSV.
FORMATS = ["astropy>=7.0", "h5py>=3.11", "pyarrow>=18", "zarr>=3.0.8"]

EXTRAS = {
    "bench": ["timm>=1.0"],
    "formats": FORMATS,
    "tensorrt": [
        "cuda-bindings>=12.9",  # of cuda-python, whose other parts are not needed
        "tensorrt>=10.13,<12",  # 11.x on PyPI is a stub that fetches its libraries elsewhere
    ],
    "tensorrt-rtx": RTX,
    "test": [
        # where it has wheels; the fuzzing is skipped elsewhere
        "atheris>=3.0; sys_platform == 'linux' and platform_machine == 'x86_64' "
        "and python_version < '3.15'",
        "hypothesis>=6.120",
        "lenstronomy>=1.12",
        "mypy==2.4.1",
        "pytest>=8.3",
        "ruff==0.17.6",
        "scipy-stubs>=1.14",
        *FORMATS,
        *RTX,
    ],
}


def packages() -> dict[str, str]:
    """Each package's installed name and its folder, read off the tree."""
    folders = [init.parent for top in FOLDERS for init in sorted(Path(top).rglob("__init__.py"))]
    return {"stronglens." + ".".join(folder.parts): str(folder) for folder in folders}


setup(
    name="stronglens",
    version="0.1.0",
    description="Train strong-lens classifiers, export them, classify survey catalogues fast",
    python_requires=">=3.11",
    packages=list(packages()),
    package_dir=packages(),
    package_data={name: ["py.typed"] for name in packages()},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "lens-train = stronglens.training.cli:train",
            "lens-simulate = stronglens.training.simulate.cli:main",
            "lens-export = stronglens.export.cli:main",
            "lens-infer = stronglens.engine.cli:main",
            "lens-verify = stronglens.engine.cli_verify:main",
            "lens-merge = stronglens.engine.cli_merge:main",
        ]
    },
)
