"""A network of nids-mixer in PyTorch: weights from `model.safetensors`, tokens by `tokeniser.json`.

    python nids_mixer.py RUN FLOWS.csv > probabilities.csv

For runs of one network over features: `finetune.from: pretrained`, `frozen` or `scratch`, without members and heads. Needs torch,
numpy and safetensors. `scripts/check_runtimes.py` compares it with `predict`.
"""

import csv
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F


class Mixer(torch.nn.Module):
    """tokens -> blocks -> mean token -> logits"""

    def __init__(self, run):
        super().__init__()
        self.w = load_file(pathlib.Path(run) / "model.safetensors")
        self.depth = sum(name.endswith("token_norm.weight") for name in self.w)
        config = (pathlib.Path(run) / "config.yaml").read_text()
        self.act = torch.tanh if "activation: tanh" in config else F.gelu

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps=1e-5)

    def mlp(self, name, x):
        return self.linear(f"{name}.linear2", self.act(self.linear(f"{name}.linear1", x)))

    def latents(self, features):
        """features: {name: [N, width]} -> the mean token [N, D]"""
        x = torch.stack([self.linear(f"encoder.embed.{name}", values) for name, values in features.items()], 1)
        if "encoder.registers.weight" in self.w:
            x = torch.cat([x, self.w["encoder.registers.weight"].expand(len(x), -1, -1)], 1)
        for i in range(self.depth):
            block = f"encoder.blocks.{i}"
            normed = self.norm(f"{block}.token_norm", x)
            x = x + self.mlp(f"{block}.token_mixing", normed.transpose(1, 2)).transpose(1, 2)
            x = x + self.mlp(f"{block}.channel_mixing", self.norm(f"{block}.channel_norm", x))
        return self.norm("encoder.norm", x).mean(1)

    def forward(self, features):
        """The logit of an attack [N, 1], or one a class [N, C]."""
        return self.linear("classifier", self.latents(features))


class Tokeniser:
    """Rows of texts -> {feature: [N, width]}, with `normalisation: features` and one-hots"""

    def __init__(self, run):
        found = json.loads((pathlib.Path(run) / "tokeniser.json").read_text())
        names = [column["name"] for column in found["schema"]["columns"] if column["kind"] in ("numeric", "categorical")]
        self.config, self.features = found["config"], dict(zip(names, found["features"]))

    def parts(self, learnt, texts):
        x = np.array([float(text) if text not in ("", "-") else np.nan for text in texts])
        missing = np.isnan(x)[:, None]
        knots, normal, edges = (np.array(learnt[key]) for key in ("knots", "normal", "edges"))
        has_indicator = learnt.get("missing", False)
        neutral = edges[:1] if has_indicator else knots[[np.abs(normal).argmin()]]  # nothing is known of what is missing
        quantile = np.where(missing, 0, np.interp(x, knots, normal)[:, None])
        log1p = np.clip((np.sign(x) * np.log1p(np.abs(x)) - learnt["log1p"]["mean"]) / learnt["log1p"]["std"], -6, 6)[:, None]
        bins = np.clip((np.where(missing, neutral, x[:, None]) - edges[:-1]) / np.diff(edges), 0, 1)
        chosen = [quantile] * self.config["quantile"] + [np.where(missing, 0, log1p)] * self.config["log1p"] + [bins]
        return np.concatenate(chosen + [missing] * has_indicator, 1)

    def __call__(self, rows):
        tokens = {}
        for name, feature in self.features.items():
            (kind, learnt), texts = *feature.items(), [row[name].strip() for row in rows]
            if kind == "categorical":
                known = {text: place for place, text in enumerate(learnt["values"])}
                values = np.eye(len(known) + 1)[[known.get(text or "-", len(known)) for text in texts]]
            else:
                values = self.parts(learnt, texts)
            tokens[name] = torch.tensor(values, dtype=torch.float32)
        return tokens


if __name__ == "__main__":
    with open(sys.argv[2], newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    with torch.no_grad():
        logits = Mixer(sys.argv[1])(Tokeniser(sys.argv[1])(rows))
    print("probability", *(float(p) for p in torch.sigmoid(logits[:, 0])), sep="\n")
