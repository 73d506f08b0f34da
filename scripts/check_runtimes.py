"""Compares a run in other runtimes with its verdicts: ONNX graphs in onnxruntime from raw values and in tract from codes and floats, and
the weights in PyTorch by docs/examples/pytorch, where these are there.

    python scripts/check_runtimes.py RUN FLOWS.csv [--bin target/debug/nids-mixer] [--limit 1e-5] [--rows 20000]

FLOWS.csv has the columns of the run's schema; cells that are blank or `-` are missing numbers, and some more
are made blank here.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", type=pathlib.Path)
parser.add_argument("flows", type=pathlib.Path)
parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/debug/nids-mixer"))
parser.add_argument("--limit", type=float, default=1e-5)
parser.add_argument("--rows", type=int, default=20000)
args = parser.parse_args()
scratch = pathlib.Path(tempfile.mkdtemp(prefix="onnx-"))


def nids_mixer(*words):
    subprocess.run([args.bin, *map(str, words)], check=True)


def compare(what, found, wanted):
    worst = float(np.abs(found - wanted).max())
    print(f"check_runtimes: {what}: {len(wanted)} rows, at most {worst:.1e} apart")
    if not worst <= args.limit:
        sys.exit(f"check_runtimes: {what}: more than {args.limit:.0e}")


with args.flows.open(newline="", encoding="utf-8-sig") as file:
    rows = [row for row, _ in zip(csv.DictReader(file), range(args.rows))]
nids_mixer("export", "--run", args.run, "--onnx", scratch / "raw.onnx")
nids_mixer("export", "--run", args.run, "--onnx", scratch / "codes.onnx", "--inputs", "codes")
raw = onnxruntime.InferenceSession(scratch / "raw.onnx")
values = json.loads(raw.get_modelmeta().custom_metadata_map["nids_mixer.values"])
# every seventh row lacks a number, now this one and now that
numeric = [given.name for given in raw.get_inputs() if given.name not in values]
for i, row in enumerate(rows[::7]):
    row[numeric[i % len(numeric)]] = ""
with (scratch / "flows.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
nids_mixer("predict", "-q", "--run", args.run, "--data", scratch / "flows.csv", "--id", "row", "--output", scratch / "verdicts.csv")
with (scratch / "verdicts.csv").open(newline="") as file:
    wanted = np.array([float(row["probability"]) for row in csv.DictReader(file)], np.float32)


def number(text):
    return float("nan") if text.strip() in ("", "-") else float(text)


feed, numbers, codes = {}, [], []
for given in raw.get_inputs():
    column = [row[given.name] for row in rows]
    if given.name in values:
        feed[given.name] = np.array(column, object)[:, None]
        known = {text: code for code, text in enumerate(values[given.name])}
        codes.append([known.get(text, len(known)) for text in column])
    else:
        feed[given.name] = np.array([number(text) for text in column])[:, None]
        numbers.append(feed[given.name][:, 0].astype(np.float32))


def batches(session, feed):
    n = len(rows)
    parts = [session.run(["probability"], {k: v[i : i + 1000] for k, v in feed.items()})[0] for i in range(0, n, 1000)]
    return np.concatenate(parts)[:, 0]


compare("raw values in onnxruntime", batches(raw, feed), wanted)
latents = raw.run(None, {name: column[:10] for name, column in feed.items()})[-1]
print(f"check_runtimes: outputs {[output.name for output in raw.get_outputs()]}, the last one of 10 rows {latents.shape}")
coded = {}
if numbers:
    coded["numbers"] = np.stack(numbers, 1)
if codes:
    coded["codes"] = np.array(codes, np.int64).T.copy()
of_codes = batches(onnxruntime.InferenceSession(scratch / "codes.onnx"), coded)
single = np.array_equal(coded.get("numbers", np.zeros(0)).astype(float), np.stack([c[:, 0] for n, c in feed.items() if n not in values], 1), equal_nan=True)
if single:
    compare("codes and floats in onnxruntime", of_codes, wanted)
else:
    # a value that f32 rounds may lie on the other side of a knot
    apart = np.abs(of_codes - wanted)
    print(f"check_runtimes: codes and floats in onnxruntime: values rounded to f32: {np.quantile(apart, 0.99):.1e} apart at the 99th percentile, at most {apart.max():.1e}")
try:
    import tract
except ImportError:
    print("check_runtimes: tract is not there: codes and floats were not run in it")
else:
    runnable = tract.onnx().load(str(scratch / "codes.onnx")).into_model().into_runnable()
    some = {name: column[:100] for name, column in coded.items()}
    found = runnable.run([some[name] for name in ("numbers", "codes") if name in some])[0].to_numpy()[:, 0]
    compare("codes and floats in tract, beside onnxruntime", found, of_codes[:100])
is_plain = raw.get_modelmeta().custom_metadata_map["nids_mixer.calibrated"] == "false"
names = [output.name for output in raw.get_outputs()]
if not is_plain or names != ["probability", "latents"]:
    sys.exit()
try:
    import torch
except ImportError:
    print("check_runtimes: PyTorch is not there: its module was not run")
    sys.exit()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "docs/examples/pytorch"))
from nids_mixer import Mixer, Tokeniser  # noqa: E402

with torch.no_grad():
    network, tokens = Mixer(args.run), Tokeniser(args.run)(rows)
    compare("weights in PyTorch", torch.sigmoid(network(tokens)).numpy()[:, 0], wanted)
    latents_of = np.concatenate([raw.run(["latents"], {k: v[i : i + 1000] for k, v in feed.items()})[0] for i in range(0, len(rows), 1000)])
    compare("latents in PyTorch, beside onnxruntime", network.latents(tokens).numpy(), latents_of)
