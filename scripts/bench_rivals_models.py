"""The rivals of scripts/bench_rivals.py, and the process in which each of them runs.

All compute the same Mixer classifier and the same step: loss, gradients, clipping to norm 1, AdamW. Activations are laid out
tokens first, [N, b, D], which was the fastest in PyTorch and numpy alike: both mixings are one GEMM, without a transpose.
"""

import collections
import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import time

import numpy as np

Shape = collections.namedtuple("Shape", "batch n_tokens dim token_hidden channel_hidden depth patch micro steps")
SHAPES = {  # micro: samples a micro-batch for PyTorch; steps: what one timing of a rival takes
    "S": Shape(4096, 42, 48, 168, 24, 10, patch=1, micro=128, steps=1),
    "M": Shape(4096, 14, 198, 56, 99, 10, patch=3, micro=128, steps=1),
    "L": Shape(1024, 42, 128, 84, 256, 6, patch=1, micro=64, steps=1),
    "M32": Shape(32, 14, 198, 56, 99, 10, patch=3, micro=32, steps=30),
}
LR, WEIGHT_DECAY, BETA1, BETA2, ADAM_EPS, NORM_EPS, MAX_NORM = 1e-3, 0.05, 0.9, 0.999, 1e-8, 1e-5, 1.0


def layout(shape):
    """Sizes of the parameters: embedding, six a branch, norm, head."""
    norm = [(shape.dim,), (shape.dim,)]
    sizes = [(shape.dim, shape.patch), (shape.dim,)]
    for size, hidden in [(shape.n_tokens, shape.token_hidden), (shape.dim, shape.channel_hidden)] * shape.depth:
        sizes += [*norm, (hidden, size), (hidden,), (size, hidden), (size,)]
    return [*sizes, *norm, (1, shape.dim), (1,)]


def views(flat, shape):
    ends = np.cumsum([np.prod(size) for size in layout(shape)])
    return [part.reshape(size) for part, size in zip(np.split(flat, ends[:-1]), layout(shape), strict=True)]


def initial(shape):
    """Parameters in one flat array, inputs and targets: the same for every rival."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).ravel() * size[-1] ** -0.5 for size in layout(shape)]
    x = rng.standard_normal((shape.batch, shape.n_tokens * shape.patch), np.float32)
    return np.concatenate(params).astype(np.float32), x, rng.integers(0, 2, shape.batch).astype(np.float32)


def drop_path(shape, dropout, branch):
    return dropout * (branch // 2) / (shape.depth - 1)


# ---- PyTorch -------------------------------------------------------------------------------------------------------------


def torch_mixer(shape, dropout, params):
    import torch
    import torch.nn.functional as F

    class Mixer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.params = torch.nn.ParameterList(torch.tensor(value) for value in params)

        def branch(self, x, index, gamma, beta, w1, b1, w2, b2):
            y = F.layer_norm(x, (shape.dim,), gamma, beta, NORM_EPS)
            if index % 2:
                y = F.dropout(F.gelu(F.linear(y, w1, b1)), dropout)
                y = F.linear(y, w2, b2)
            else:
                y = F.dropout(F.gelu(torch.addmm(b1[:, None], w1, y.flatten(1))), dropout)
                y = torch.addmm(b2[:, None], w2, y).view(x.shape)
            y = F.dropout(y, dropout)
            if rate := drop_path(shape, dropout, index):
                y = y * torch.empty(x.shape[1], 1).bernoulli_(1 - rate).div_(1 - rate)
            return x + y

        def forward(self, x, y):
            params = list(self.params)
            x = F.linear(x.view(-1, shape.n_tokens, shape.patch), *params[:2]).transpose(0, 1).contiguous()
            for index in range(2 * shape.depth):
                x = self.branch(x, index, *params[2 + 6 * index : 8 + 6 * index])
            x = F.layer_norm(x, (shape.dim,), *params[-4:-2], NORM_EPS).mean(0)
            return F.binary_cross_entropy_with_logits(F.linear(x, *params[-2:])[:, 0], y, reduction="sum")

    return Mixer()


def plain_mixer(shape, dropout):
    """As the paper and its usual ports write it: samples first, tokens mixed on a transpose, a module a layer."""
    import torch

    class DropPath(torch.nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def forward(self, x):
            if self.rate == 0:
                return x
            return x * torch.empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate).div_(1 - self.rate)

    class Branch(torch.nn.Module):
        def __init__(self, index):
            super().__init__()
            self.tokens = index % 2 == 0
            size, hidden = (shape.n_tokens, shape.token_hidden) if self.tokens else (shape.dim, shape.channel_hidden)
            self.norm = torch.nn.LayerNorm(shape.dim)
            self.mlp = torch.nn.Sequential(torch.nn.Linear(size, hidden), torch.nn.GELU(), torch.nn.Dropout(dropout),
                                           torch.nn.Linear(hidden, size), torch.nn.Dropout(dropout))
            self.drop_path = DropPath(drop_path(shape, dropout, index))

        def forward(self, x):
            y = self.norm(x)
            y = self.mlp(y.transpose(1, 2)).transpose(1, 2) if self.tokens else self.mlp(y)
            return x + self.drop_path(y)

    class Mixer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Linear(shape.patch, shape.dim)
            self.branches = torch.nn.Sequential(*map(Branch, range(2 * shape.depth)))
            self.norm, self.head = torch.nn.LayerNorm(shape.dim), torch.nn.Linear(shape.dim, 1)
            self.loss = torch.nn.BCEWithLogitsLoss(reduction="sum")

        def forward(self, x, y):
            x = self.branches(self.embed(x.view(-1, shape.n_tokens, shape.patch)))
            return self.loss(self.head(self.norm(x).mean(1))[:, 0], y)

    return Mixer()


class TorchRival:
    def __init__(self, shape, spec):
        import torch

        self.torch = torch
        torch.set_num_threads(spec["threads"])
        torch.set_flush_denormal(True)
        flat, x, y = initial(shape)
        plain = spec.get("plain", False)
        self.model = plain_mixer(shape, spec["dropout"]) if plain else torch_mixer(shape, spec["dropout"], views(flat, shape))
        self.loss, self.autocast = self.model, spec.get("autocast", False)
        if spec["compile"]:
            import torch._inductor.config

            # the compiler's own masks take twice the time of all the rest
            torch._inductor.config.fallback_random = spec["dropout"] > 0
            self.loss = torch.compile(self.model, dynamic=False)
        self.parts = [[torch.tensor(x[at : at + spec["micro"]]), torch.tensor(y[at : at + spec["micro"]])]
                      for at in range(0, shape.batch, spec["micro"])]
        self.batch = shape.batch
        self.optimiser = torch.optim.AdamW(self.model.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)

    def step(self):
        for part in self.parts:
            with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.autocast):
                loss = self.loss(*part)
            (loss / self.batch).backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM, foreach=True)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def kernels(self):
        config, own = self.torch.__config__.show(), self.torch.backends.cpu.get_cpu_capability()
        patterns = {"MKL": r"Math Kernel Library Version ([\d.]+)", "oneDNN": r"MKL-DNN v(\S+)"}
        found = [f"{name} {match[1]}" for name, pattern in patterns.items() if (match := re.search(pattern, config))]
        return ", ".join([*found, f"own kernels {own}"])


# ---- numpy ---------------------------------------------------------------------------------------------------------------


class NumpyMixer:
    """Forward and backward by hand over [N, b, D], tokens first: both mixings are one GEMM, and every transpose is a view.

    Arrays are kept from step to step in `kept`; x is updated in place, since LayerNorm's backward needs xhat and rstd only.
    """

    def __init__(self, shape, dropout, params, seed):
        self.shape, self.dropout, self.params, self.kept = shape, dropout, params, {}
        self.rng = np.random.Generator(np.random.SFC64(seed))
        self.flat_grad = np.zeros(sum(param.size for param in params), np.float32)
        self.grads = views(self.flat_grad, shape)

    def array(self, key, *size):
        if (key, size) not in self.kept:
            self.kept[key, size] = np.empty(size, np.float32)
        return self.kept[key, size]

    def hidden(self, key, rows, like):
        """[rows, n] in the memory order of `like`, features first for tokens and last for channels."""
        n = like.shape[1]
        return self.array(key, rows, n) if like.flags.c_contiguous else self.array(key, n, rows).T

    def fold(self, x, index):
        """Features first: [N, b·D] for token mixing, [D, N·b] for channel mixing."""
        return x.reshape(-1, x.shape[2]).T if index % 2 else x.reshape(x.shape[0], -1)

    def ones(self, n):
        if ("ones", n) not in self.kept:
            self.kept["ones", n] = np.ones(n, np.float32)
        return self.kept["ones", n]

    def mask(self, out):
        """16 random bits an element: a third of the cost of a float."""
        flat = out.ravel("K")
        bits = self.rng.bit_generator.random_raw(-(-flat.size // 4)).view(np.uint16)[: flat.size]
        np.greater_equal(bits, np.uint16(round(self.dropout * 65536)), out=flat)
        flat *= 1 / (1 - self.dropout)
        return out

    def norm(self, x, gamma, beta, key):
        mean = self.ones(x.shape[2]) / x.shape[2]
        xhat, y = self.array((key, "xhat"), *x.shape), self.array((key, "y"), *x.shape)
        np.subtract(x, (x @ mean)[..., None], out=xhat)
        rstd = 1 / np.sqrt(np.einsum("nbd,nbd->nb", xhat, xhat) / x.shape[2] + NORM_EPS)[..., None]
        xhat *= rstd
        np.multiply(xhat, gamma, out=y)
        y += beta
        return y, xhat, rstd

    def norm_backward(self, dy, xhat, rstd, gamma, dgamma, dbeta):
        """dy becomes dx."""
        d = len(gamma)
        product, ones = self.array("product", *dy.shape), self.ones(dy.size // d)
        np.multiply(dy, xhat, out=product)
        dgamma += ones @ product.reshape(-1, d)
        dbeta += ones @ dy.reshape(-1, d)
        mean_dxhat, mean_product = dy @ (gamma / d), product @ (gamma / d)
        dy *= gamma
        dy -= mean_dxhat[..., None]
        np.multiply(xhat, mean_product[..., None], out=product)
        dy -= product
        dy *= rstd

    def gelu(self, u, du, tail, t):
        """u becomes gelu(u), du the derivative. erf: Abramowitz and Stegun 7.1.26, error 1.5e-7."""
        np.abs(u, out=t)
        t *= 0.3275911 * 0.5**0.5
        t += 1
        np.reciprocal(t, out=t)
        np.multiply(t, 1.061405429, out=tail)
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            tail += coefficient
            tail *= t
        np.multiply(u, u, out=du)
        du *= -0.5
        np.exp(du, out=du)
        tail *= du
        tail *= -0.5
        tail += 0.5
        np.copysign(tail, u, out=tail)
        tail += 0.5  # Phi(u)
        du *= (2 * np.pi) ** -0.5
        du *= u
        du += tail
        u *= tail

    def branch(self, x, index):
        gamma, beta, w1, b1, w2, b2 = self.params[2 + 6 * index : 8 + 6 * index]
        y, xhat, rstd = self.norm(x, gamma, beta, index)
        y = self.fold(y, index)
        h, dgelu = self.hidden((index, "h"), len(w1), y), self.hidden((index, "dgelu"), len(w1), y)
        scratch, t = self.hidden("scratch", len(w1), y), self.hidden("t", len(w1), y)
        np.matmul(w1, y, out=h)
        h += b1[:, None]
        self.gelu(h, dgelu, scratch, t)
        if self.dropout:
            h *= self.mask(scratch)
            dgelu *= scratch
        o, mask = self.array("o", *x.shape), None
        folded = self.fold(o, index)
        np.matmul(w2, h, out=folded)
        folded += b2[:, None]
        if self.dropout:
            mask, rate = self.mask(self.array((index, "mask"), *x.shape)), drop_path(self.shape, self.dropout, index)
            mask *= ((self.rng.random(x.shape[1], np.float32) >= rate) / np.float32(1 - rate))[:, None]
            o *= mask
        x += o
        return y, xhat, rstd, h, dgelu, mask

    def branch_backward(self, dx, index, y, xhat, rstd, h, dgelu, mask):
        gamma, _, w1, _, w2, _ = self.params[2 + 6 * index : 8 + 6 * index]
        dgamma, dbeta, dw1, db1, dw2, db2 = self.grads[2 + 6 * index : 8 + 6 * index]
        do = self.fold(dx if mask is None else np.multiply(dx, mask, out=self.array("o", *dx.shape)), index)
        ones = self.ones(do.shape[1])
        dw2 += do @ h.T
        db2 += do @ ones
        dh = np.matmul(w2.T, do, out=self.hidden("scratch", len(w1), y))
        dh *= dgelu
        dw1 += dh @ y.T
        db1 += dh @ ones
        dy = self.array("dy", *dx.shape)
        np.matmul(w1.T, dh, out=self.fold(dy, index))
        self.norm_backward(dy, xhat, rstd, gamma, dgamma, dbeta)
        dx += dy

    def add_gradients(self, inputs, target, batch):
        """Adds to `grads` those of the summed loss over `batch`, and returns that loss."""
        shape, b = self.shape, len(inputs)
        tokens = np.ascontiguousarray(inputs.reshape(b, shape.n_tokens, shape.patch).swapaxes(0, 1))
        x = self.array("x", shape.n_tokens, b, shape.dim)
        np.matmul(tokens, self.params[0].T, out=x)
        x += self.params[1]
        caches = [self.branch(x, index) for index in range(2 * shape.depth)]
        y, xhat, rstd = self.norm(x, *self.params[-4:-2], "last")
        pooled = y.mean(0)
        z = (pooled @ self.params[-2].T + self.params[-1])[:, 0]

        dz = (1 / (1 + np.exp(-z)) - target) / np.float32(batch)
        self.grads[-2] += dz @ pooled
        self.grads[-1] += dz.sum()
        dx = x  # the values have done their work
        dx[:] = dz[:, None] * self.params[-2] / np.float32(shape.n_tokens)
        self.norm_backward(dx, xhat, rstd, self.params[-4], *self.grads[-4:-2])
        for index in reversed(range(2 * shape.depth)):
            self.branch_backward(dx, index, *caches[index])
        flat = dx.reshape(-1, shape.dim)
        self.grads[0] += flat.T @ tokens.reshape(-1, shape.patch)
        self.grads[1] += self.ones(len(flat)) @ flat
        return float((np.logaddexp(0, z) - z * target).sum() / batch)


class NumpyRival:
    """`workers` Python threads share the micro-batches: numpy drops the interpreter's lock."""

    def __init__(self, shape, spec):
        self.shape, self.t, workers = shape, 0, spec["workers"]
        self.flat, self.x, self.y = initial(shape)
        self.m, self.v = np.zeros_like(self.flat), np.zeros_like(self.flat)
        self.models = [NumpyMixer(shape, spec["dropout"], views(self.flat, shape), seed) for seed in range(workers)]
        self.parts = [slice(at, at + spec["micro"]) for at in range(0, shape.batch, spec["micro"])]
        self.pool = concurrent.futures.ThreadPoolExecutor(workers)

    def share(self, index):
        model = self.models[index]
        model.flat_grad[:] = 0
        for part in self.parts[index :: len(self.models)]:
            model.add_gradients(self.x[part], self.y[part], self.shape.batch)

    def step(self):
        list(self.pool.map(self.share, range(len(self.models))))
        grad = self.models[0].flat_grad
        for model in self.models[1:]:
            grad += model.flat_grad
        grad *= min(1, MAX_NORM / (float(np.sqrt(grad @ grad)) + 1e-6))
        self.t += 1
        self.m += (1 - BETA1) * (grad - self.m)
        self.v += (1 - BETA2) * (grad * grad - self.v)
        self.flat *= 1 - LR * WEIGHT_DECAY
        self.flat -= LR / (1 - BETA1**self.t) * self.m / (np.sqrt(self.v / (1 - BETA2**self.t)) + ADAM_EPS)

    def kernels(self):
        import threadpoolctl

        return ", ".join(f"{lib['internal_api']} {lib['version']} {lib.get('architecture', '')}"
                         for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas")


# ---- LightGBM ------------------------------------------------------------------------------------------------------------


class LightgbmRival:
    """Trained on every row of a file as scripts/quality.py does, then asked what it says of them as float64 numpy rows."""

    def __init__(self, _, spec):
        import lightgbm
        import pandas
        import yaml

        columns = yaml.safe_load(pathlib.Path(spec["schema"]).read_text())["columns"]
        frame = pandas.read_csv(spec["data"], encoding="utf-8-sig")
        features = [column for column in columns if column["kind"] in ("numeric", "categorical")]
        words = [place for place, column in enumerate(features) if column["kind"] == "categorical"]
        label = next(column["name"] for column in columns if column["kind"] == "label")
        names = [column["name"] for column in features]
        for place in words:
            frame[names[place]] = frame[names[place]].astype("category").cat.codes
        self.rows, self.threads = frame[names].to_numpy("float64"), spec["threads"]
        settings = {"n_estimators": 400, "learning_rate": 0.05, "num_leaves": 63, "random_state": 0, "verbose": -1}
        model = lightgbm.LGBMClassifier(n_jobs=self.threads, **settings).fit(self.rows, frame[label], categorical_feature=words)
        self.model = model.booster_

    def step(self):
        self.model.predict(self.rows, num_threads=self.threads)

    def figures(self):
        n = len(self.rows)
        rows = [self.rows[row % n : row % n + 1] for row in range(0, 7 * 2000, 7)]  # not one row that branches get used to
        micros = sorted(1e6 * seconds(lambda: self.model.predict(row, num_threads=1)) for row in rows)
        return {"rows": n, "rows_per_s": n / seconds(self.step), "p50_us": micros[1000], "p99_us": micros[1980]}

    def kernels(self):
        return f"LightGBM {importlib.metadata.version('lightgbm')}"


class ReadRival:
    """From a file to a table, and to LightGBM's probabilities: by pandas and by polars, as their pages show it."""

    def __init__(self, _shape, spec):
        import lightgbm
        import pandas
        import polars
        import yaml

        self.pandas, self.polars, self.files, self.threads = pandas, polars, spec["files"], spec["threads"]
        columns = yaml.safe_load(pathlib.Path(spec["schema"]).read_text())["columns"]
        self.names = [column["name"] for column in columns if column["kind"] in ("numeric", "categorical")]
        words = [column["name"] for column in columns if column["kind"] == "categorical"]
        label = next(column["name"] for column in columns if column["kind"] == "label")
        frame = pandas.read_csv(self.files["CSV"], nrows=20_000)
        self.values = {word: sorted(frame[word].unique()) for word in words}
        self.n_rows = len(polars.read_parquet(self.files["Parquet"], columns=[label]))
        settings = {"n_estimators": 400, "learning_rate": 0.05, "num_leaves": 63, "random_state": 0, "verbose": -1}
        rows = self.from_pandas(frame)
        model = lightgbm.LGBMClassifier(n_jobs=self.threads, **settings)
        self.model = model.fit(rows, frame[label], categorical_feature=[self.names.index(word) for word in words]).booster_

    def from_pandas(self, frame):
        codes = {word: self.pandas.Categorical(frame[word], categories=values).codes for word, values in self.values.items()}
        return frame.assign(**codes)[self.names].to_numpy("float64")

    def from_polars(self, frame):
        polars = self.polars
        codes = [polars.col(word).replace_strict(values, range(len(values)), default=-1) for word, values in self.values.items()]
        return frame.with_columns(codes).select(polars.col(self.names).cast(polars.Float64)).to_numpy()

    def judge(self, rows_of, frame):
        self.model.predict(rows_of(frame), num_threads=self.threads)

    def step(self):
        self.polars.read_csv(self.files["CSV"])

    def figures(self):
        found = {}
        for kind, file in self.files.items():
            for library, rows_of in ((self.pandas, self.from_pandas), (self.polars, self.from_polars)):
                read = getattr(library, f"read_{kind.lower()}")
                read_s, frame = timed(read, file)
                judge_s, _ = timed(self.judge, rows_of, frame)
                found[f"{library.__name__}, {kind}"] = self.n_rows / read_s
                found[f"{library.__name__} + LightGBM, {kind}"] = self.n_rows / (read_s + judge_s)
        return found

    def kernels(self):
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pandas", "polars", "pyarrow", "lightgbm"))


# ---- a rival's process ---------------------------------------------------------------------------------------------------


def seconds(work):
    return timed(work)[0]


def timed(work, *args):
    started = time.perf_counter()
    result = work(*args)
    return time.perf_counter() - started, result


def serve(spec):
    """Warms up, says so, then answers `step K` with seconds a step, and `figures`, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # compilers talk
    pathlib.Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this goes and nothing else
    shape = Shape(*spec["shape"])
    rival = {"torch": TorchRival, "numpy": NumpyRival, "lightgbm": LightgbmRival, "read": ReadRival}[spec["kind"]](shape, spec)
    for _ in range(1 + shape.steps // 10):
        rival.step()
    answer = {"kernels": rival.kernels()}
    while True:
        status = pathlib.Path("/proc/self/status").read_text()
        answer["peak_mib"] = int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024
        print(json.dumps(answer), file=answers, flush=True)
        command = sys.stdin.readline().split()
        if not command:
            return
        answer = rival.figures() if command == ["figures"] else {}
        if command[0] == "step":
            steps = int(command[1])
            answer = {"seconds": seconds(lambda: [rival.step() for _ in range(steps)]) / steps}


# ---- do they compute the same? -------------------------------------------------------------------------------------------


def check():
    """Gradients of all against a plain Mixer in float64; with dropout, numpy's against differences of its own loss."""
    worst = {}
    for name, full in SHAPES.items():
        shape = full._replace(batch=8)
        flat, x, y = initial(shape)
        wanted = plain_gradients(shape, flat, x, y)
        worst[name, "PyTorch"] = furthest(torch_gradients(shape, flat, x, y), wanted)
        mixer = NumpyMixer(shape, 0, views(flat, shape), 0)
        mixer.add_gradients(x, y, shape.batch)
        worst[name, "numpy"] = furthest(mixer.grads, wanted)
        worst[name, "numpy, dropout 0.1, slope"] = slope_error(shape, flat, x, y)
    for key, error in worst.items():
        print(f"{': '.join(key)}: {error:.1e}")
    sys.exit(any(error > (2e-2 if "slope" in key[1] else 1e-4) for key, error in worst.items()))


def plain_gradients(shape, flat, x, y):
    """Of x: [b, N, D] with tokens mixed on a transpose, as the paper writes it."""
    import torch
    import torch.nn.functional as F

    params = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in views(flat, shape)]
    x = F.linear(torch.tensor(x, dtype=torch.float64).view(-1, shape.n_tokens, shape.patch), *params[:2])
    for index in range(2 * shape.depth):
        gamma, beta, w1, b1, w2, b2 = params[2 + 6 * index : 8 + 6 * index]
        z = F.layer_norm(x, (shape.dim,), gamma, beta, NORM_EPS)
        z = F.linear(F.gelu(F.linear(z if index % 2 else z.mT, w1, b1)), w2, b2)
        x = x + (z if index % 2 else z.mT)
    x = F.layer_norm(x, (shape.dim,), *params[-4:-2], NORM_EPS).mean(1)
    F.binary_cross_entropy_with_logits(F.linear(x, *params[-2:])[:, 0], torch.tensor(y, dtype=torch.float64)).backward()
    return [param.grad.numpy() for param in params]


def torch_gradients(shape, flat, x, y):
    import torch

    model = torch_mixer(shape, 0, views(flat, shape))
    (model(torch.tensor(x), torch.tensor(y)) / shape.batch).backward()
    return [param.grad.numpy() for param in model.parameters()]


def furthest(found, wanted):
    """Relative to the largest of each parameter. The second bias of token mixing has none: the next LayerNorm takes it out."""
    floor = 1e-3 * max(abs(b).max() for b in wanted)
    return max(abs(a - b).max() / max(abs(b).max(), floor) for a, b in zip(found, wanted, strict=True))


def slope_error(shape, flat, x, y):
    """The same seed draws the same masks, so a move along each parameter's unit gradient changes the loss by their lengths."""
    def loss_at(point):
        mixer = NumpyMixer(shape, 0.1, views(point, shape), 0)
        return mixer.add_gradients(x, y, shape.batch), mixer.grads

    grads = loss_at(flat)[1]
    lengths = [np.linalg.norm(grad) for grad in grads]
    move = np.concatenate([(grad / length).ravel() for grad, length in zip(grads, lengths, strict=True)])
    move *= 1e-2 / sum(lengths)
    return abs((loss_at(flat + move)[0] - loss_at(flat - move)[0]) / 2e-2 - 1)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
