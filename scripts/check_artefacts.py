"""Opens the artefacts of a run with numpy and safetensors and checks what their names promise."""

import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file

run, metrics = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())

for name in ["pretrained.safetensors", "model.safetensors"]:
    tensors = load_file(run / name)
    assert any(key.startswith("encoder.blocks.0.token_mixing.") for key in tensors), sorted(tensors)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values()), name

for part in ["train", "val"]:
    latents, labels, rows = (np.load(run / "latents" / f"{prefix}{part}.npy") for prefix in ["", "labels_", "rows_"])
    assert latents.dtype == np.float32 and len(latents) == len(labels) == len(rows), part
    assert set(np.unique(labels)) <= {0, 1} and np.isfinite(latents).all(), part

lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
assert {line["stage"] for line in lines} == {"pretrain", "encode", "finetune"}
assert json.loads((run / "tokeniser.json").read_text())
wanted = "accuracy balanced_accuracy precision recall f1 roc_auc pr_auc recall_at_fpr_1pct n".split()
assert all(key in metrics for key in wanted), metrics
print(f"check_artefacts: {run.name} opens in numpy {np.__version__} and safetensors")
