"""Fuzz a reader, guided by which of its lines were reached; needs atheris (Linux).

python tests/fuzz/run.py fuzz_npy -runs=100000 FOLDER tests/fuzz/corpus/npy

FOLDER gets the inputs that reached something new; one on which the reader fails ends the run and
lies in the working folder. Options are those of libFuzzer.
"""

import importlib
import sys
from pathlib import Path

import atheris

OWN = ["stronglens.engine.sources.npy", "stronglens.engine.manifest", "stronglens.engine.wire"]


def main():
    sys.path.insert(0, str(Path(__file__).parent))
    with atheris.instrument_imports(include=OWN):
        target = importlib.import_module(sys.argv.pop(1)).read
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
