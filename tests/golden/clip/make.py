"""Trains the committed CLIPs and puts them beside this file; see README.md.

    ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2,STRICT \\
        PYTHONPATH=pipelines .venv/bin/python tests/golden/clip/make.py
"""

import shutil
from pathlib import Path

from train_clip_models import clip_model

HERE = Path(__file__).parent

for name in ("repair_0_fair", "repair_0", "shapes"):
    shutil.rmtree(HERE / name, ignore_errors=True)
    shutil.copytree(clip_model(name), HERE / name)
