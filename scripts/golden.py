"""The golden tensors of tests/golden/data, computed with PyTorch's own layers, autograd, optimisers and schedulers.

Nothing here is shared with the Rust code but names and formulas. Every number is drawn from a generator that is seeded with the
tensor's name, so that a new case leaves the others as they were. tests/golden/data/README.md says what the files hold.
"""

import argparse
import json
import math
import pathlib
import statistics
import tempfile
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

DATA = pathlib.Path(__file__).parent.parent / "tests/golden/data"
DTYPES = {"f32": torch.float32, "f64": torch.float64}


class Recorder:
    """Tensors of one file, by name, in one precision."""

    def __init__(self, dtype):
        self.dtype, self.tensors, self.settings = dtype, {}, {}

    def put(self, name, value):
        assert name not in self.tensors, name
        value = torch.as_tensor(value).detach()
        if value.dtype == torch.bool:
            value = value.to(torch.uint8)
        self.tensors[name] = value.clone().contiguous()

    def generator(self, name):
        return torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, name, *shape, scale=1.0, mean=0.0):
        """Numbers of both precisions are the same but for rounding."""
        drawn = torch.randn(shape, dtype=torch.float64, generator=self.generator(name))
        return (mean + scale * drawn).to(self.dtype)

    def input(self, name, *shape, **how):
        """As `normal`, and recorded."""
        value = self.normal(name, *shape, **how)
        self.put(name, value)
        return value

    def bernoulli(self, name, p, *shape):
        """Recorded: True with probability p."""
        value = torch.rand(shape, dtype=torch.float64, generator=self.generator(name)) < p
        self.put(name, value)
        return value

    def write(self, path):
        # one key: with more, their order in the file would be another every time
        about = {"torch": torch.__version__, "numpy": np.__version__, **self.settings}
        save_file(self.tensors, path, metadata={"settings": json.dumps(about, sort_keys=True)})
        path.chmod(0o644)


class Params:
    """Parameters by name: drawn, recorded and differentiated."""

    def __init__(self, recorder, prefix):
        self.recorder, self.prefix, self.all = recorder, prefix, {}

    def get(self, name, *shape, scale=None, mean=0.0):
        if name not in self.all:
            if scale is None:
                scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
            value = self.recorder.input(f"{self.prefix}param.{name}", *shape, scale=scale, mean=mean)
            self.all[name] = value.requires_grad_()
        return self.all[name]

    def linear(self, name, inputs, outputs, bias=True):
        weight = self.get(f"{name}weight", outputs, inputs)
        return weight, (self.get(f"{name}bias", outputs) if bias else None)

    def norm(self, name, x):
        d = x.shape[-1]
        return F.layer_norm(x, (d,), self.get(f"{name}weight", d, scale=0.3, mean=1.0), self.get(f"{name}bias", d), eps=1e-5)

    def put_gradients(self, loss, *inputs):
        """Records `grad.*`; returns the gradients of the inputs."""
        values = list(self.all.values())
        grads = torch.autograd.grad(loss, [*values, *inputs])
        for name, grad in zip(self.all, grads):
            self.recorder.put(f"{self.prefix}grad.{name}", grad)
        return grads[len(values) :]


# ---- the Mixer -----------------------------------------------------------------------------------------------------------

ACTIVATIONS = {"gelu": F.gelu, "tanh": torch.tanh}  # F.gelu is the exact one, with erf


class Masks:
    """Dropout and stochastic depth with masks that are recorded."""

    def __init__(self, recorder, prefix, dropout, drop_path, depth, b):
        self.recorder, self.prefix, self.p = recorder, prefix, dropout
        rates = [drop_path * i / (depth - 1) if depth > 1 else 0.0 for i in range(depth)]
        self.rates = [rate for rate in rates for _ in ("token", "channel")]
        self.keep = None
        if any(self.rates):
            recorder.put(f"{prefix}drop_prob", torch.tensor(self.rates, dtype=torch.float64))
            keep = 1.0 - torch.tensor(self.rates, dtype=torch.float64)[:, None]
            # a sample of each branch is kept and, where the rate is not 0, one is dropped
            drawn = torch.rand((len(self.rates), b), dtype=torch.float64, generator=recorder.generator(f"{prefix}keep"))
            self.keep = drawn < keep
            for branch, rate in enumerate(self.rates):
                self.keep[branch, branch % b] = True
                self.keep[branch, (branch + 1) % b] = rate == 0.0
            recorder.put(f"{prefix}keep", self.keep)

    def dropout(self, name, x):
        if self.p == 0.0:
            return x
        return x * self.recorder.bernoulli(f"{self.prefix}mask.{name}", 1.0 - self.p, *x.shape) / (1.0 - self.p)

    def drop_path(self, branch, x):
        if self.keep is None:
            return x
        return x * self.keep[branch][:, None, None] / (1.0 - self.rates[branch])


def mlp(params, name, x, hidden, activation, dropout):
    """Linear, activation, dropout, linear, dropout over the last axis."""
    size = x.shape[-1]
    h = ACTIVATIONS[activation](F.linear(x, *params.linear(f"{name}linear1.", size, hidden)))
    y = F.linear(dropout("dropout1", h), *params.linear(f"{name}linear2.", hidden, size))
    return dropout("dropout2", y)


def visible_mlp(params, name, x, visible, n_tokens, hidden, activation, dropout):
    """`mlp` over the tokens that each sample still has: those columns of W1, times N / K, and those rows of W2 and b2.
    x: [B, D, K]"""
    w1, b1 = params.linear(f"{name}linear1.", n_tokens, hidden)
    w2, b2 = params.linear(f"{name}linear2.", hidden, n_tokens)
    share = n_tokens / x.shape[-1]
    h = torch.stack([F.linear(x[j], w1[:, idx] * share, b1) for j, idx in enumerate(visible)])
    h = dropout("dropout1", ACTIVATIONS[activation](h))
    y = torch.stack([F.linear(h[j], w2[idx], b2[idx]) for j, idx in enumerate(visible)])
    return dropout("dropout2", y)


def blocks(params, prefix, x, config, masks=None, visible=None, depth=None, first=0):
    """x: [B, N, D]"""
    for i in range(first, config["depth"] if depth is None else depth):
        for branch, axis in enumerate(["token", "channel"]):
            name = f"blocks.{i}.{axis}_mixing."
            dropout = (lambda which, y, name=name: masks.dropout(name + which, y)) if masks else (lambda _, y: y)
            normed = params.norm(f"{prefix}blocks.{i}.{axis}_norm.", x)
            rest = (config[f"{axis}_hidden"], config["activation"], dropout)
            if axis == "channel":
                y = mlp(params, prefix + name, normed, *rest)
            elif visible is None:
                y = mlp(params, prefix + name, normed.mT, *rest).mT
            else:
                y = visible_mlp(params, prefix + name, normed.mT, visible, config["n_tokens"], *rest).mT
            x = x + (masks.drop_path(2 * i + branch, y) if masks else y)
    return x


def patches(x, width):
    b, length = x.shape
    return x.reshape(b, length // width, width)


def embed(params, x, config):
    """One linear map a feature, or one for all patches; registers last. x: a dictionary of features, or [B, N·P]"""
    d = config["dim"]
    if isinstance(x, dict):
        tokens = [F.linear(value, *params.linear(f"embed.{name}.", value.shape[-1], d)) for name, value in x.items()]
        tokens = torch.stack(tokens, 1)
    else:
        tokens = F.linear(patches(x, config["patch"]), *params.linear("proj.", config["patch"], d))
    if config["n_registers"]:
        registers = params.get("registers.weight", config["n_registers"], d, scale=0.5)
        tokens = torch.cat([tokens, registers.expand(len(tokens), -1, -1)], 1)
    return tokens


# ---- single layers ---------------------------------------------------------------------------------------------------------


def layer(recorder, case, x, f):
    """Records y = f(params, x) and, for an upstream gradient dy, every gradient."""
    recorder.put(f"{case}.x", x)
    x = x.clone().requires_grad_()
    params = Params(recorder, f"{case}.")
    y = f(params, x)
    dy = recorder.input(f"{case}.dy", *y.shape)
    recorder.put(f"{case}.y", y)
    (dx,) = params.put_gradients((y * dy).sum(), x)
    recorder.put(f"{case}.dx", dx)


def loss(recorder, case, value, **inputs):
    """Records a loss and `d{name}` of each input that it is differentiated by."""
    recorder.put(f"{case}.loss", value.reshape(1))
    for (name, _), grad in zip(inputs.items(), torch.autograd.grad(value, list(inputs.values()))):
        recorder.put(f"{case}.d{name}", grad)


def grid(recorder):
    """128 numbers: large and tiny ones, and a run through the middle."""
    ends = [0.0, 1e-30, 1e-12, 1e-6, 1e-3, 7.5, 12.0, 40.0, 300.0]
    middle = torch.linspace(-6.0, 6.0, 128 - 2 * len(ends), dtype=torch.float64)
    both = torch.tensor([sign * x for x in ends for sign in (1.0, -1.0)], dtype=torch.float64)
    return torch.cat([both, middle]).to(recorder.dtype)


def layers(recorder):
    b, n, d, h = 3, 6, 19, 23
    normal, put = recorder.normal, recorder.put
    linear = lambda inputs, outputs, bias=True: lambda p, x: F.linear(x, *p.linear("", inputs, outputs, bias))
    layer(recorder, "linear2d", normal("linear2d.x", 5, 9), linear(9, 11))
    layer(recorder, "linear3d", normal("linear3d.x", b, n, 9), linear(9, 17))
    layer(recorder, "linear3d_nobias", normal("linear3d_nobias.x", b, n, 9), linear(9, 4, bias=False))
    layer(recorder, "layernorm", normal("layernorm.x", b, n, d, mean=0.7), lambda p, x: p.norm("", x))
    # a variance of 9e-6, so that the eps of 1e-5 weighs as much
    layer(recorder, "layernorm_eps", normal("layernorm_eps.x", b, n, d, scale=0.003), lambda p, x: p.norm("", x))
    layer(recorder, "gelu", grid(recorder), lambda _, x: F.gelu(x))
    layer(recorder, "tanh", grid(recorder), lambda _, x: torch.tanh(x))
    layer(recorder, "mean_tokens", normal("mean_tokens.x", b, n, d), lambda _, x: x.mean(1))

    x = normal("patchify.x", 2, 12)
    put("patchify.x", x)
    put("patchify.y", patches(x, 3))

    p = 0.15
    put("dropout.p", torch.tensor([p], dtype=torch.float64))
    mask = recorder.bernoulli("dropout.mask", 1.0 - p, b, n, d)
    layer(recorder, "dropout", normal("dropout.x", b, n, d), lambda _, x: x * mask / (1.0 - p))

    whole = lambda _, y: y
    channel = lambda prefix: lambda p, x: mlp(p, prefix, x, h, "gelu", whole)
    token = lambda prefix: lambda p, x: mlp(p, prefix, x.mT, h, "gelu", whole).mT
    layer(recorder, "token_mixing", normal("token_mixing.x", b, n, d), token(""))
    layer(recorder, "channel_mixing", normal("channel_mixing.x", b, n, d), channel(""))
    for name, mixing in [("token", token("fn.")), ("channel", channel("fn."))]:
        case, rate = f"prenorm_residual_{name}", 0.3
        put(f"{case}.drop_prob", torch.tensor([rate], dtype=torch.float64))
        keep = torch.tensor([True, False, True])
        put(f"{case}.keep", keep)
        residual = lambda p, x: x + keep[:, None, None] * mixing(p, p.norm("norm.", x)) / (1.0 - rate)
        layer(recorder, case, normal(f"{case}.x", b, n, d), residual)

    widths = {"a": 2, "b": 1, "c": 5, "d": 3}
    x = {name: recorder.input(f"embedding.x.{name}", b, width) for name, width in widths.items()}
    params = Params(recorder, "embedding.")
    y = embed(params, x, {"dim": d, "n_registers": 2})
    put("embedding.y", y)
    params.put_gradients((y * recorder.input("embedding.dy", *y.shape)).sum())

    # μ and σ; the log-variance is bounded by 10 tanh
    x, params = recorder.input("posterior.x", b, n, d, scale=2.0), Params(recorder, "posterior.")
    put("posterior.mu", F.linear(x, *params.linear("mu.", d, 4)))
    put("posterior.sigma", torch.exp(5.0 * torch.tanh(F.linear(x, *params.linear("log_variance.", d, 4)) / 10.0)))

    losses(recorder)


def losses(recorder):
    normal, put, dtype = recorder.normal, recorder.put, recorder.dtype
    for case, weighted, positive, reduction in [
        ("bce_mean", False, None, "mean"),
        ("bce_sum", False, None, "sum"),
        ("bce_weight", True, None, "mean"),
        ("bce_pos_weight", False, 2.5, "mean"),
    ]:
        logits = normal(f"{case}.logits", 19, scale=3.0)
        logits[:4] = torch.tensor([60.0, -60.0, 0.0, 12.0])  # large ones take the stable way
        target = (normal(f"{case}.target", 19) > 0.0).to(dtype)
        target[4:6] = torch.tensor([0.3, 0.9])  # labels of a teacher
        put(f"{case}.logits", logits)
        put(f"{case}.target", target)
        weight = recorder.normal(f"{case}.weight", 19).abs() + 0.1 if weighted else None
        pos_weight = torch.tensor([positive], dtype=dtype) if positive else None
        for name, value in [("weight", weight), ("pos_weight", pos_weight)]:
            if value is not None:
                put(f"{case}.{name}", value)
        logits.requires_grad_()
        value = F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight, reduction=reduction)
        loss(recorder, case, value, logits=logits)

    logits = recorder.input("cross_entropy.logits", 9, 4, scale=3.0).requires_grad_()
    classes = torch.tensor([0, 3, 1, 2, 2, 0, 3, 3, 1])
    weights = torch.tensor([0.5, 2.0, 1.25, 0.75], dtype=dtype)
    put("cross_entropy.classes", classes)
    put("cross_entropy.weights", weights)
    loss(recorder, "cross_entropy", F.cross_entropy(logits, classes, weights, reduction="sum") / 9.0, logits=logits)

    prediction, target = recorder.input("mse.prediction", 13).requires_grad_(), recorder.input("mse.target", 13)
    loss(recorder, "mse", F.mse_loss(prediction, target), prediction=prediction)

    mu, s = (recorder.input(f"kl.{name}", 7, 3).requires_grad_() for name in ["mu", "log_variance"])
    posterior = torch.distributions.Normal(mu, torch.exp(s / 2.0))
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    kl = torch.distributions.kl_divergence(posterior, prior).sum() / 7.0
    loss(recorder, "kl", kl, mu=mu, log_variance=s)


# ---- whole networks --------------------------------------------------------------------------------------------------------

WIDTHS = {"a": 2, "b": 1, "c": 4, "d": 3, "e": 1}
#: what is predicted of each feature: a number, or one of so many classes
TARGETS = {"a": 0, "b": 2, "c": 3, "d": 0, "e": 0}
#: features that are hidden from each of three samples, two of five
HIDDEN = [[0, 3], [1, 2], [2, 4]]
B = 3


class Case:
    """One network: its settings, parameters, masks and tensors."""

    def __init__(self, recorder, name, dropout=0.0, drop_path=0.0, **settings):
        config = {
            "dim": 10, "depth": 2, "token_hidden": 13, "channel_hidden": 8, "n_registers": 0, "activation": "gelu",
            "dropout": dropout, "drop_path": drop_path, **settings,
        }  # fmt: skip
        config["n_tokens"] = config.get("n_patches", len(WIDTHS)) + config["n_registers"]
        config["features"] = [] if "patch" in config else list(WIDTHS.items())
        config["targets"] = list(TARGETS.values())
        self.recorder, self.name, self.prefix, self.config = recorder, name, f"{name}.", config
        recorder.settings.setdefault("networks", {})[name] = config
        self.params = Params(recorder, self.prefix)
        self.masks = Masks(recorder, self.prefix, dropout, drop_path, config["depth"], B)

    def input(self, name, *shape, **how):
        return self.recorder.input(self.prefix + name, *shape, **how)

    def put(self, name, value):
        self.recorder.put(self.prefix + name, value)

    def features(self):
        return {name: self.input(f"x.{name}", B, width) for name, width in self.config["features"]}

    def encoder(self, tokens, masks, visible=None):
        """Blocks and the last norm; members part before block `shared_blocks`."""
        members, shared = self.config.get("members"), self.config.get("shared_blocks", 0)
        if members:
            tokens = blocks(self.params, "", tokens, self.config, masks, depth=shared)
            _, n, d = tokens.shape
            scales = self.params.get("scales.weight", members, n, d, scale=0.5, mean=1.0)
            tokens = torch.cat([tokens * scale for scale in scales])  # [K·B, N, D], the first member's samples first
        tokens = blocks(self.params, "", tokens, self.config, masks, visible, first=shared)
        return self.params.norm("norm.", tokens)

    def classifier(self, tokens, masks, outputs):
        pooled = self.encoder(tokens, masks).mean(1)
        members = self.config.get("members")
        if not members:
            return F.linear(pooled, *self.params.linear("classifier.", self.config["dim"], outputs))
        heads = [self.params.linear(f"classifier.{k}.", self.config["dim"], outputs) for k in range(members)]
        return torch.cat([F.linear(x, *head) for x, head in zip(pooled.chunk(members), heads)])

    def targets(self):
        """[F, B]: numbers and classes."""
        drawn = self.recorder.normal(f"{self.prefix}targets", len(TARGETS), B)
        for row, n_classes in zip(drawn, TARGETS.values()):
            if n_classes:
                row.copy_(torch.arange(B) % n_classes)
        self.put("targets", drawn)
        return drawn

    def decode(self, tokens):
        decoder = {**self.config, "depth": self.config["decoder_depth"]}
        tokens = blocks(self.params, "decoder.", tokens, decoder)
        return self.params.norm("decoder.norm.", tokens)

    def heads(self, decoded, targets, hidden=None):
        """Σ of the features' losses; only of those that are hidden, where any are."""
        total = 0.0
        for t, (name, n_classes) in enumerate(TARGETS.items()):
            y = F.linear(decoded[:, t], *self.params.linear(f"heads.{name}.", self.config["dim"], n_classes or 1))
            if n_classes:
                of_sample = F.cross_entropy(y, targets[t].long(), reduction="none")
            else:
                of_sample = (y[:, 0] - targets[t]) ** 2
            total = total + (of_sample if hidden is None else of_sample * hidden[t]).sum()
        return total

    def hidden(self):
        """[F, B], 1 where a feature is hidden."""
        mask = torch.zeros(len(TARGETS), B, dtype=self.recorder.dtype)
        for j, features in enumerate(HIDDEN):
            mask[features, j] = 1.0
        self.put("mask", mask)
        return mask

    def masked(self, x, mask, token):
        """The embedding with hidden features replaced by their bias and `token`."""
        tokens = embed(self.params, x, self.config)
        biases = torch.stack([self.params.all[f"embed.{name}.bias"] for name in x])
        hidden = F.pad(mask.T, (0, self.config["n_registers"]))[:, :, None]
        stand_in = F.pad(biases if token is None else biases + token, (0, 0, 0, self.config["n_registers"]))
        return torch.where(hidden > 0.0, stand_in, tokens)


def networks(recorder):
    binary(recorder)
    multiclass(recorder)
    ensemble(recorder)
    student(recorder)
    for encoder in ["mask_token", "visible_only"]:
        masked_autoencoder(recorder, encoder)
    for latent in ["token", "pooled"]:
        variational_autoencoder(recorder, latent)


def binary(recorder):
    """Over features with registers, in four blocks; dropout .15 and stochastic depth from 0 to .5."""
    case = Case(recorder, "binary", dropout=0.15, drop_path=0.5, depth=4, n_registers=2, pos_weight=1.7)
    x, labels = case.features(), torch.tensor([1.0, 0.0, 1.0], dtype=recorder.dtype)
    case.put("labels", labels)
    logits = case.classifier(embed(case.params, x, case.config), case.masks, 1)[:, 0]
    case.put("logits", logits)
    pos_weight = torch.tensor([case.config["pos_weight"]], dtype=recorder.dtype)
    value = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight)
    case.put("loss", value.reshape(1))
    case.params.put_gradients(value)
    case.put("eval.logits", case.classifier(embed(case.params, x, case.config), None, 1))


def multiclass(recorder):
    """Over patches, tanh, four classes."""
    case = Case(recorder, "multiclass", patch=3, n_patches=7, activation="tanh", n_registers=1, dropout=0.25)
    x, classes = case.input("x", B, 21).requires_grad_(), torch.tensor([2, 0, 3])
    weights = torch.tensor([0.5, 2.0, 1.25, 0.75], dtype=recorder.dtype)
    case.put("classes", classes)
    case.put("weights", weights)
    logits = case.classifier(embed(case.params, x, case.config), case.masks, 4)
    case.put("logits", logits)
    value = F.cross_entropy(logits, classes, weights, reduction="sum") / B
    case.put("loss", value.reshape(1))
    (dx,) = case.params.put_gradients(value, x)
    case.put("dx", dx)
    case.put("eval.logits", case.classifier(embed(case.params, x, case.config), None, 4))


def ensemble(recorder):
    """Three members that share the first of two blocks and have scales and heads of their own."""
    case = Case(recorder, "ensemble", members=3, shared_blocks=1)
    x, labels = case.features(), torch.tensor([0.0, 1.0, 1.0], dtype=recorder.dtype)
    case.put("labels", labels)
    logits = case.classifier(embed(case.params, x, case.config), None, 1)[:, 0]
    case.put("logits", logits)
    value = F.binary_cross_entropy_with_logits(logits, labels.repeat(3))
    case.put("loss", value.reshape(1))
    case.params.put_gradients(value)
    case.put("eval.logits", logits)


def student(recorder):
    """The first sample has a label, the others a teacher's probabilities; a pretrained mask token stands for what is hidden."""
    case = Case(recorder, "student", n_registers=1, pos_weight=1.7, weight=0.6, labelled=1)
    x, mask = case.features(), case.hidden()
    token = case.input("token", case.config["dim"])
    targets = torch.tensor([1.0, 0.3, 0.9], dtype=recorder.dtype)
    case.put("targets", targets)
    logits = case.classifier(case.masked(x, mask, token), None, 1)[:, 0]
    bce = F.binary_cross_entropy_with_logits
    pos_weight = torch.tensor([case.config["pos_weight"]], dtype=recorder.dtype)
    supervised, consistency = bce(logits[:1], targets[:1], pos_weight=pos_weight), bce(logits[1:], targets[1:])
    case.put("supervised", supervised.reshape(1))
    case.put("consistency", consistency.reshape(1))
    case.params.put_gradients(supervised + case.config["weight"] * consistency)


def masked_autoencoder(recorder, encoder):
    case = Case(
        recorder, f"mae_{encoder}", dropout=0.15, drop_path=0.5, n_registers=1, encoder=encoder, mask_ratio=0.4,
        decoder_depth=1, divisor=6.0,
    )  # fmt: skip
    config, params = case.config, case.params
    x, mask, targets = case.features(), case.hidden(), case.targets()
    mask_token = params.get("mask_token", config["dim"])
    if encoder == "mask_token":
        decoder_input = case.encoder(case.masked(x, mask, mask_token), case.masks)
    else:
        tokens = embed(params, x, config)
        n = config["n_tokens"]
        visible = [[t for t in range(n) if t >= len(x) or mask[t, j] == 0.0] for j in range(B)]
        packed = torch.stack([tokens[j, idx] for j, idx in enumerate(visible)])
        encoded = case.encoder(packed, case.masks, visible)
        biases = torch.stack([params.all[f"embed.{name}.bias"] for name in x])
        stand_in = F.pad(biases + mask_token, (0, 0, 0, config["n_registers"]))
        samples = []
        for j, idx in enumerate(visible):
            place = {t: encoded[j, k] for k, t in enumerate(idx)}
            samples.append(torch.stack([place.get(t, stand_in[t]) for t in range(n)]))
        decoder_input = torch.stack(samples)
    value = case.heads(case.decode(decoder_input), targets, mask) / config["divisor"]
    case.put("loss", value.reshape(1))
    params.put_gradients(value)


def variational_autoencoder(recorder, latent):
    case = Case(
        recorder, f"vae_{latent}", dropout=0.15, n_registers=1, latent=latent, latent_dim=4, decoder_depth=1, beta=0.3,
        divisor=6.0,
    )  # fmt: skip
    config, params = case.config, case.params
    x, targets = case.features(), case.targets()
    tokens = case.encoder(embed(params, x, config), case.masks)
    h = tokens if latent == "token" else tokens.mean(1, keepdim=True)
    mu = F.linear(h, *params.linear("latent.mu.", config["dim"], config["latent_dim"]))
    s = 10.0 * torch.tanh(F.linear(h, *params.linear("latent.log_variance.", config["dim"], config["latent_dim"])) / 10.0)
    z = mu + torch.exp(s / 2.0) * case.input("eps", *mu.shape)
    placed = F.linear(z, *params.linear("decoder.input.", config["latent_dim"], config["dim"], bias=False))
    placed = placed + params.get("decoder.places", config["n_tokens"], config["dim"], scale=0.5)
    reconstruction = case.heads(case.decode(placed), targets) / config["divisor"]
    kl = 0.5 * (mu**2 + torch.exp(s) - 1.0 - s).sum() / config["divisor"]
    case.put("reconstruction", reconstruction.reshape(1))
    case.put("kl", kl.reshape(1))
    params.put_gradients(reconstruction + config["beta"] * kl)


# ---- optimisers and schedules ------------------------------------------------------------------------------------------------

STEPS = 6
SHAPES = {"a.weight": (5, 7), "a.bias": (5,), "b.weight": (3, 2)}


class UncorrectedAdam(torch.optim.Adam):
    """Adam as its paper has it at the end of section 2: eps is added to √v before the bias correction. torch's adds it after."""

    def __init__(self, groups, eps, betas, **settings):
        super().__init__(groups, betas=betas, foreach=False, **settings)
        self.uncorrected, self.t = eps, 0

    def step(self):
        self.t += 1
        for group in self.param_groups:
            group["eps"] = self.uncorrected / math.sqrt(1.0 - group["betas"][1] ** self.t)
        super().step()


def optimisers(recorder):
    """The same gradients for all; rates and gradients change from step to step."""
    start = {name: recorder.input(f"start.{name}", *shape) for name, shape in SHAPES.items()}
    grads = [
        {name: recorder.input(f"grad.{t}.{name}", *shape, scale=0.3 * 2.0 ** (t - 2)) for name, shape in SHAPES.items()}
        for t in range(STEPS)
    ]
    rates = [0.01, 0.05, 0.05, 0.1, 0.02, 0.004]
    adam = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-3}
    cases = {
        "adam": {"kind": "adam", **adam, "weight_decay": 0.0},
        "adam_l2": {"kind": "adam", **adam, "weight_decay": 0.03},
        "adam_matrices": {"kind": "adam", **adam, "weight_decay": 0.03, "decay": "matrices"},
        "adamw": {"kind": "adamw", **adam, "weight_decay": 0.1},
        "adamw_matrices": {"kind": "adamw", **adam, "weight_decay": 0.1, "decay": "matrices"},
        "adamw_clipped": {"kind": "adamw", **adam, "weight_decay": 0.1, "max_norm": 0.8},
    }
    #: parameters whose name starts with this learn at another rate
    recorder.settings.update(rates=rates, lr_scales={"a.": 1.0, "b.": 0.3})
    for case, settings in cases.items():
        recorder.settings.setdefault("optimisers", {})[case] = settings
        params = {name: value.clone().requires_grad_() for name, value in start.items()}
        groups = [
            {
                "params": [value],
                "scale": recorder.settings["lr_scales"][name[:2]],
                "weight_decay": 0.0 if settings.get("decay") == "matrices" and value.dim() < 2 else settings["weight_decay"],
            }
            for name, value in params.items()
        ]
        make = UncorrectedAdam if settings["kind"] == "adam" else lambda *a, **k: torch.optim.AdamW(*a, foreach=False, **k)
        optimiser = make(groups, lr=1.0, betas=(settings["beta1"], settings["beta2"]), eps=settings["eps"])
        for t in range(STEPS):
            for name, value in params.items():
                value.grad = grads[t][name].clone()
            if "max_norm" in settings:
                torch.nn.utils.clip_grad_norm_(params.values(), settings["max_norm"], foreach=False)
            for group in optimiser.param_groups:
                group["lr"] = rates[t] * group["scale"]
            optimiser.step()
            for name, value in params.items():
                recorder.put(f"{case}.{t}.{name}", value)


def series(make, steps, lr):
    """The rates of a scheduler of torch over so many steps."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler, rates = make(optimiser), []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def schedules(recorder):
    schedule = torch.optim.lr_scheduler
    steps = 40

    def warmup(lr, n, start):
        """LinearLR from one step above `start` to `lr`."""
        if n == 0:
            return []
        first = (start + (lr - start) / n) / lr
        return series(lambda o: schedule.LinearLR(o, first, 1.0, max(n - 1, 1)), n, lr)

    def add(name, rates, **settings):
        settings = {"eta_min": 0.0, "warmup_epochs": 0, "warmup_start_lr": 0.0, **settings}
        recorder.settings.setdefault("schedules", {})[name] = settings
        recorder.put(f"{name}.lr_intended", torch.tensor(rates, dtype=torch.float64))

    rates = warmup(0.02, 5, 0.001)
    add("constant", rates + [0.02] * (steps - 5), kind="constant", lr=0.02, warmup_epochs=5, warmup_start_lr=0.001)
    add("constant_plain", [0.3] * 7, kind="constant", lr=0.3)

    half_wave = series(lambda o: schedule.CosineAnnealingLR(o, 24, 1e-4), 25, 0.05)  # torch's rises again after T_max
    add(
        "cosine", warmup(0.05, 6, 0.0) + half_wave + [1e-4] * (steps - 31),
        kind="cosine", lr=0.05, T_max=24.0, eta_min=1e-4, warmup_epochs=6,
    )  # fmt: skip
    add("cosine_plain", series(lambda o: schedule.CosineAnnealingLR(o, steps - 1), steps, 0.05), kind="cosine", lr=0.05, T_max=39.0)

    for name, t_0, t_mult, n in [("restarts_fixed", 7, 1, 0), ("restarts_growing", 3, 2, 4)]:
        waves = series(lambda o: schedule.CosineAnnealingWarmRestarts(o, t_0, t_mult, 2e-4), steps - n, 0.05)
        add(
            name, warmup(0.05, n, 0.002) + waves,
            kind="restarts", lr=0.05, T_0=t_0, T_mult=t_mult, eta_min=2e-4, warmup_epochs=n, warmup_start_lr=0.002,
        )  # fmt: skip

    for name, share, div, final in [("one_cycle", 0.3, 25.0, 1e4), ("one_cycle_late", 0.65, 4.0, 10.0)]:
        cycle = lambda o: schedule.OneCycleLR(
            o, 0.05, total_steps=steps + 1, pct_start=share, div_factor=div, final_div_factor=final, cycle_momentum=False
        )
        add(
            name, series(cycle, steps, 0.05),
            kind="one_cycle", lr=0.05, steps=steps + 1, pct_start=share, div_factor=div, final_div_factor=final,
        )  # fmt: skip


# ---- the tokeniser, in numpy -----------------------------------------------------------------------------------------------

#: rows are fitted on from the front
N_FITTED = 30


def table():
    """A number and a category of 40 rows: ties of both, big magnitudes, missing categories, and some that only later rows have."""
    rng = np.random.default_rng(17)
    numbers = np.round(rng.lognormal(3.0, 3.0, 40), 3)
    numbers[[3, 8, 9, 21, 33]] = 0.0
    numbers[[5, 6, 7]] = numbers[4]
    numbers[[10, 34]], numbers[[11, 35]] = 3.4e12, -7.25
    numbers[36:38] = [1e30, -1e30]
    # of the rows fitted on: 12, 7, 7, 3 and 1
    texts = rng.permutation(["tcp"] * 12 + ["udp"] * 7 + [""] * 7 + ["ospf"] * 3 + ["-"]).tolist()
    texts += ["udp", "", "new", "tcp", "-", "ospf", "udp", "tc", "tcp", ""]
    return numbers, texts


def quantile_bins(values, bins):
    """Edges: the distinct ones of bins + 1 quantiles; a bin a value where there are few."""
    distinct = np.unique(values)
    if len(distinct) <= bins:
        return np.concatenate([[distinct[0] - (distinct[1] - distinct[0])], distinct])
    ordered = np.sort(values)
    return np.unique(ordered[[(k * (len(values) - 1) + bins // 2) // bins for k in range(bins + 1)]])


def normal_scores(values, x):
    """Φ⁻¹ of the mid-rank, linear between training values."""
    knots = np.unique(values)
    ranks = [((values < knot).sum() + (values <= knot).sum()) / (2 * len(values)) for knot in knots]
    scores = np.clip([statistics.NormalDist().inv_cdf(rank) for rank in ranks], -4.0, 4.0)
    return np.interp(x, knots, scores)


def features(recorder):
    numbers, texts = table()
    fitted, min_count, max_categories = numbers[:N_FITTED], 2, 3
    settings = {"numbers": numbers.tolist(), "texts": texts, "fitted": N_FITTED}
    recorder.settings.update(settings, min_count=min_count, max_categories=max_categories)
    put = lambda name, value: recorder.put(name, torch.tensor(np.asarray(value, np.float64)))

    log1p = lambda x: np.sign(x) * np.log1p(np.abs(x))
    for bins in [4, 64]:
        edges = quantile_bins(fitted, bins)
        scaled = (log1p(numbers) - log1p(fitted).mean()) / log1p(fitted).std()
        shares = np.clip((numbers[:, None] - edges[:-1]) / (edges[1:] - edges[:-1]), 0.0, 1.0)
        parts = [normal_scores(fitted, numbers)[:, None], np.clip(scaled, -6.0, 6.0)[:, None], shares]
        put(f"features.{bins}.number", np.concatenate(parts, 1))
    put("standard.number", np.clip((numbers - fitted.mean()) / fitted.std(), -1e6, 1e6)[:, None])

    known = sorted({text for text in texts[:N_FITTED] if texts[:N_FITTED].count(text) >= min_count})
    known = sorted(known, key=lambda text: -texts[:N_FITTED].count(text))[:max_categories]
    classes = np.array([known.index(text) if text in known else len(known) for text in texts])
    put("one_hot.text", np.eye(len(known) + 1)[classes])
    put("standard.text", ((classes - classes[:N_FITTED].mean()) / classes[:N_FITTED].std())[:, None])

    # one scale for all: the largest raw value, which cancels out
    raw = np.stack([numbers, classes], 1)
    scale = np.abs(raw[:N_FITTED]).max()
    mean, std = (raw[:N_FITTED] / scale).mean(), (raw[:N_FITTED] / scale).std()
    put("global_max.scale", [scale])
    put("global_max.mean", [mean])
    put("global_max.std", [std])
    put("global_max.raw", raw)
    put("global_max.x", (raw / scale - mean) / std)


# ---- a checkpoint to import ---------------------------------------------------------------------------------------------


class Linear:
    def __init__(self, draw, inputs, outputs):
        self.weight, self.bias = draw(outputs, inputs), draw(outputs)


class LayerNorm:
    def __init__(self, draw, dim):
        self.weight, self.bias = draw(dim), draw(dim)


def checkpoint(folder):
    """A pickled dictionary as `import` reads it, from classes of our own, and what is to come of it."""
    patch, dim, tokens, token_hidden, channel_hidden, depth = 3, 4, 5, 7, 6, 2
    rng = np.random.default_rng(23)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    layers = {"proj": Linear(draw, patch, dim)}
    for i in range(depth):
        for axis, size, hidden in [("token", tokens, token_hidden), ("channel", dim, channel_hidden)]:
            layers[f"blocks.{i}.{axis}_norm"] = LayerNorm(draw, dim)
            layers[f"blocks.{i}.{axis}_mixing.linear1"] = Linear(draw, size, hidden)
            layers[f"blocks.{i}.{axis}_mixing.linear2"] = Linear(draw, hidden, size)
    layers |= {"norm": LayerNorm(draw, dim), "classifier": Linear(draw, dim, 2)}

    model, optimiser, wanted, address = {}, {}, {}, 140_000_000_000_000
    for name, layer in layers.items():
        for attribute in ["weight", "bias"]:
            value = getattr(layer, attribute)
            address += 16 * value.size
            if attribute == "weight" and name.endswith("linear2"):
                value = np.asfortranarray(value)
            model[f"{type(layer).__name__}_{attribute}_{address}"] = value
            wanted[f"param.{name}.{attribute}"] = value
            if name.startswith("blocks.1"):
                continue  # the optimiser has not seen these
            first, second = draw(*value.shape).astype(np.float64), draw(*value.shape) ** 2
            optimiser[address] = {"step": len(optimiser), "exp_avg": first, "exp_avg_sq": second}
            for key, moment in optimiser[address].items():
                wanted[f"{key}.{name}.{attribute}"] = np.array([moment]) if key == "step" else moment
    np.save(folder / "checkpoint.npy", np.array({"model_state": model, "optimizer_state": optimiser}, dtype=object))
    recorder = Recorder(torch.float32)
    for name, value in wanted.items():
        recorder.put(name, torch.from_numpy(np.ascontiguousarray(value)))
    recorder.write(folder / "checkpoint.safetensors")


def write(folder):
    for name, fill in [("layers", layers), ("networks", networks), ("optimisers", optimisers)]:
        for suffix, dtype in DTYPES.items():
            recorder = Recorder(dtype)
            fill(recorder)
            recorder.write(folder / f"{name}.{suffix}.safetensors")
    for name, fill in [("schedules", schedules), ("features", features)]:
        recorder = Recorder(torch.float64)
        fill(recorder)
        recorder.write(folder / f"{name}.f64.safetensors")
    checkpoint(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the files with what would be written; write nothing")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    if not arguments.check:
        return write(DATA)
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder))
        made = sorted(pathlib.Path(folder).iterdir())
        differing = [path.name for path in made if path.read_bytes() != (DATA / path.name).read_bytes()]
    print("\n".join(f"{name}: differs" for name in differing) or f"{len(made)} files: the same bytes")
    raise SystemExit(1 if differing else 0)


if __name__ == "__main__":
    main()
