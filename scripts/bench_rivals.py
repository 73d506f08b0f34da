"""Times our training step in turn with those of rivals, so that a slow minute of the machine slows both alike.

Each rival has a process of its own (scripts/bench_rivals_models.py), which waits for "step K" on stdin and answers with seconds:
neither threads nor the state of an allocator passes from one to another. Ours is timed before and after each answer. What can
be chosen for a rival (layout, allocator, denormals, fused AdamW) is what won when it was tried on these shapes; "as usually
written" is PyTorch as one finds it: samples first, a module a layer, the system's allocator.
"""

import argparse
import atexit
import collections
import contextlib
import ctypes.util
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bench_rivals_models as models
from bench_rivals_models import SHAPES

RIVALS = ("torch-plain", "torch", "torch-micro", "torch-bf16", "compile", "numpy", "numpy-micro")
MICRO = ("torch-micro", "numpy-micro")
BINARY = os.environ.get("NIDS_MIXER_BIN", "target/release/nids-mixer")
PAGE = pathlib.Path("docs/benchmarks.md")
TCMALLOC = ctypes.util.find_library("tcmalloc_minimal")
STARTED = time.monotonic()


class Worker:
    def __init__(self, title, args, shape, mkl_shim=None, **spec):
        self.title = title
        spec |= {"shape": shape, "threads": args.threads}
        blas = 1 if spec.get("workers", 1) > 1 else args.threads
        preload = [mkl_shim, None if spec.get("plain") else TCMALLOC, os.environ.get("LD_PRELOAD")]
        env = os.environ | {f"{name}_NUM_THREADS": str(blas) for name in ("OMP", "OPENBLAS", "MKL")}
        env["LD_PRELOAD"] = " ".join(filter(None, preload))
        command = [sys.executable, models.__file__, json.dumps(spec)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.ready = self.answer()

    def ask(self, command):
        with contextlib.suppress(BrokenPipeError):  # the answer says more
            print(command, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise ChildProcessError(f"its process ended with {self.process.wait()}")

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def candidates(rival, shape, args):
    """Titles and settings of what `rival` may be here; the fastest stands for it."""
    numpy = {"kind": "numpy", "workers": 1, "micro": shape.batch}
    if rival == "numpy":
        return [("numpy op by op, whole batch", numpy)]
    if rival == "numpy-micro":
        threads = {1: "one Python thread", 2: "two Python threads"}.get(args.threads, f"{args.threads} Python threads")
        return [(f"numpy, micro-batches of 64, {threads}", numpy | {"workers": args.threads, "micro": 64})]
    if rival == "torch-plain":
        plain = {"kind": "torch", "compile": False, "plain": True, "micro": shape.batch, "mkl_shim": args.mkl_shim}
        return [("PyTorch eager, whole batch, as usually written", plain)]
    micro = min(shape.micro, shape.batch)
    both = sorted({shape.batch, micro}, reverse=True)
    sizes = {"torch": [shape.batch], "torch-micro": [micro], "torch-bf16": both, "compile": both}
    names = {"compile": "torch.compile", "torch-bf16": "PyTorch eager in bfloat16"}
    name = names.get(rival, "PyTorch eager")
    spec = {"kind": "torch", "compile": rival == "compile", "autocast": rival == "torch-bf16", "mkl_shim": args.mkl_shim}
    return [(f"{name}, {'whole batch' if size == shape.batch else f'micro-batches of {size}'}", spec | {"micro": size})
            for size in sizes[rival]]


def mkl_shim():
    """MKL takes its AVX2 kernels on AMD's CPUs; a library that answers for it lets it take those of AVX-512."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="bench-rivals-"), "intel.so")
    atexit.register(shutil.rmtree, path.parent)
    source = "int mkl_serv_intel_cpu_true(void) { return 1; }"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)], input=source, text=True, check=True)
    return str(path)


def start(rival, shape, dropout, args):
    """A worker, warmed up. Where there are several, all live until each has made one more step, and the fastest stays."""
    timed = []
    choice = candidates(rival, shape, args)
    for title, spec in choice:
        tell(f"  {title}: warming up")
        try:
            worker = Worker(title, args, shape, dropout=dropout, **spec)
            timed.append((worker.ask("step 1")["seconds"] if len(choice) > 1 else 0, worker))
        except ChildProcessError as error:  # most likely killed for want of memory
            tell(f"  {title}: left out, {error}")
    timed.sort(key=lambda pair: pair[0])
    if len(timed) > 1:
        tell("  a step: " + ", ".join(f"{worker.title} {seconds:.2f} s" for seconds, worker in timed))
    for _, worker in timed[1:]:
        worker.close()
    if not timed:
        raise ChildProcessError("its process ended")
    return timed[0][1]


def ours(args, gemm, *options):
    command = [BINARY, "bench", "--json", "--threads", str(args.threads), "--gemm", gemm, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def our_step(args, gemm, name, dropout):
    found = ours(args, gemm, "--only", name, "--dropout", str(dropout), "--steps", "30" if name == "M32" else "3")
    result = next(result for result in found["results"] if (result["name"], result["kind"]) == (name, "train"))
    wanted = SHAPES[name]._asdict() | {"dropout": dropout, "drop_path": dropout}
    keys = ("batch", "n_tokens", "dim", "token_hidden", "channel_hidden", "depth", "dropout", "drop_path")
    assert all(math.isclose(result[key], wanted[key], rel_tol=1e-6) for key in keys), (result, wanted)
    return found, result["step_s"]


def compare(args, name, dropout, rival):
    """A row of the table, and what computed it on either side."""
    shape = SHAPES[name]._replace(**({"batch": args.batch} if args.batch else {}))
    tell(f"{name}, dropout {dropout:g}, {rival}")
    worker = start(rival, shape, dropout, args)
    mine, theirs, ratios = collections.defaultdict(list), [], collections.defaultdict(list)
    ours_mib, theirs_mib, kernels = [], [], {}

    def time_ours():
        for gemm in args.gemm:
            found, step = our_step(args, gemm, name, dropout)
            mine[gemm].append(step)
            ours_mib.append(found["peak_rss_mb"])
            kernels[f"nids-mixer, {gemm}"] = about(found)

    time_ours()
    while len(theirs) < args.rounds and not (len(theirs) == 2 and min(theirs) > 20):
        answer = worker.ask(f"step {shape.steps}")
        time_ours()
        theirs.append(answer["seconds"])
        theirs_mib.append(answer["peak_mib"])
        for gemm in args.gemm:
            ratios[gemm].append(theirs[-1] / statistics.mean(mine[gemm][-2:]))
            tell(f"  {gemm} {mine[gemm][-2]:.4f} and {mine[gemm][-1]:.4f} s, theirs {theirs[-1]:.4f} s: {ratios[gemm][-1]:.1f}")
    worker.close()
    row = [name, f"{dropout:g}", worker.title, *(f"{statistics.median(mine[gemm]):.3g}" for gemm in args.gemm),
           f"{statistics.median(theirs):.3g}", *(spread(ratios[gemm]) for gemm in args.gemm),
           f"{max(ours_mib):.0f} / {max(theirs_mib):,.0f}"]
    return row, kernels | {worker.title.split(",")[0].removesuffix(" op by op"): worker.ready["kernels"]}


def training(args):
    heading = " **PyTorch and torch.compile with MKL told that the CPU is Intel's.**" if args.mkl_shim else ""
    rows, kernels = [], {}
    for name in args.shapes:
        for dropout in args.dropout:
            for rival in args.rivals:
                if rival in MICRO and SHAPES[name].batch <= 64:  # no larger than one of its micro-batches
                    continue
                try:
                    row, found = compare(args, name, dropout, rival)
                    rows.append(row)
                    kernels |= found
                except ChildProcessError as error:
                    tell(f"  left out: {error}")
                    rows.append([name, f"{dropout:g}", f"{rival}: left out, {error}", *[""] * (2 + 2 * len(args.gemm))])
    used = {name: f"batch {batch}, {tokens} tokens, width {dim}, token hidden {token_hidden}, channel hidden {channel_hidden}, "
            f"depth {depth}" for name, (batch, tokens, dim, token_hidden, channel_hidden, depth, *_) in SHAPES.items()}
    header = ["shape", "dropout", "rival", *(f"{gemm}, s/step" for gemm in args.gemm), "theirs, s/step",
              *(f"lead of {gemm} (median; min-max)" for gemm in args.gemm), "memory ours / theirs, MiB"]
    return [f"One training step.{heading}", table(header, rows), bullets({name: used[name] for name in args.shapes}),
            f"What multiplied matrices:\n\n{bullets(kernels)}"]


def about(found):
    return f"{found['kernels']}; {found['threads']} threads can do {found['peak_gflops']:.0f} GFLOP/s"


def spread(ratios, digits=1):
    median, least, most = (f"{f(ratios):.{digits}f}" for f in (statistics.median, min, max))
    return f"**{median}** ({least}-{most})"


def table(header, rows):
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def bullets(lines):
    return "\n".join(f"- {name}: {line}" for name, line in lines.items())


# ---- verdicts ------------------------------------------------------------------------------------------------------------


def verdicts(args):
    folder = next((path for path in args.data if pathlib.Path(path, "train.csv").exists()), None)
    if not folder:
        return [f"Left out: no train.csv in {' or '.join(args.data)}; name its folder with --data."]
    schema, data = pathlib.Path("configs/schemas", f"{pathlib.Path(folder).resolve().name}.yaml"), f"{folder}/train.csv"
    if not schema.exists():
        return [f"Left out: no {schema}, the schema named as the folder of the data."]
    # `nids-mixer predict` takes as many threads as it sees cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    tell("LightGBM: training")
    worker = Worker("LightGBM", args, SHAPES["S"], kind="lightgbm", data=data, schema=str(schema))
    rounds = collections.defaultdict(list)
    kernels = {}
    for turn in range(args.rounds):
        tell(f"round {turn + 1} of {args.rounds}")
        theirs = worker.ask("figures")
        for gemm in args.gemm:
            found = ours(args, gemm, "--only", "predict,latency")
            mine = {result["kind"]: result for result in found["results"]}
            rounds[f"rows/s in memory, {gemm}"].append((mine["predict"]["rows_per_s"], theirs["rows_per_s"]))
            for key in ("p50", "p99"):
                rounds[f"µs for one row, {key}, {gemm}"].append((mine["latency"][f"{key}_us"], theirs[f"{key}_us"]))
            kernels[f"nids-mixer, {gemm}"] = about(found)
        for run in args.run:
            rounds[f"rows/s, whole process, `predict --run {run}`"].append((theirs["rows"] / whole_process(run, data), None))
    worker.close()
    rows = [[what, *beside(pairs, "rows/s" in what)] for what, pairs in rounds.items()]
    note = (f"LightGBM's 400 trees of 63 leaves were trained on the {theirs['rows']:,} rows of {data} that it reads here as a "
            "float64 numpy matrix, one row on one thread: quality is not the question. Ours in memory is the default network on "
            "generated flows.")
    whole = " The whole process reads that CSV and writes verdicts, start included." if args.run else ""
    kernels = bullets(kernels | {"LightGBM": worker.ready["kernels"]})
    return [table(["", "ours", "LightGBM", "ours is better by (median; min-max)"], rows), note + whole, kernels]


def reading(args):
    """Files of generated flows to tokens and to verdicts of the small network."""
    import polars

    config, schema = "configs/unsw-nb15-small.yaml", "configs/schemas/unsw-nb15.yaml"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    rounds, n_rows = collections.defaultdict(list), 400_000
    with tempfile.TemporaryDirectory() as folder:
        files = {"CSV": f"{folder}/flows.csv", "Parquet": f"{folder}/flows.parquet"}
        subprocess.run([BINARY, "synth", "--rows", str(n_rows), "--seed", "1", "--output", files["CSV"]], check=True)
        polars.read_csv(files["CSV"]).write_parquet(files["Parquet"])
        tell("LightGBM: training")
        worker = Worker("pandas, polars and LightGBM", args, SHAPES["S"], kind="read", files=files, schema=schema)
        for turn in range(args.rounds):
            tell(f"round {turn + 1} of {args.rounds}")
            theirs = worker.ask("figures")
            data = [part for file in files.values() for part in ("--data", file)]
            found = ours(args, "auto", "--config", config, "--only", "read", "--steps", "3", *data)
            mine = dict(zip(files, found["results"], strict=True))
            for kind in files:
                for what, rival in itertools.product(("tokens", "verdicts"), ("polars", "pandas")):
                    rival += {"tokens": "", "verdicts": " + LightGBM"}[what]
                    rounds[f"{kind} to {what}", rival].append((mine[kind][f"{what}_per_s"], theirs[f"{rival}, {kind}"]))
    worker.close()
    rows = [[what, rival, *beside(pairs, True)] for (what, rival), pairs in rounds.items()]
    note = (f"Rows/s of a file of {n_rows:,} generated flows. Ours: to the tokens of {config}, and to its network's verdicts. "
            "Theirs: to a table, and to the predictions of LightGBM's 400 trees of 63 leaves. Polars wrote the Parquet file.")
    kernels = bullets({"nids-mixer": about(found), "rivals": worker.ready["kernels"]})
    return [table(["from a file", "rival", "ours", "theirs", "ours is faster by (median; min-max)"], rows), note, kernels]


def whole_process(run, data):
    """Seconds from CSV to verdicts."""
    with tempfile.TemporaryDirectory() as folder:
        command = [BINARY, "predict", "--run", run, "--data", data, "--output", f"{folder}/verdicts.csv"]
        return models.seconds(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL))


def beside(pairs, more_is_better):
    """Medians of both sides and how much better ours is, where there are theirs."""
    mine, theirs = zip(*pairs, strict=True)
    if None in theirs:
        return [f"{statistics.median(mine):,.0f}", "", ""]
    ratios = [a / b if more_is_better else b / a for a, b in pairs]
    return [f"{statistics.median(mine):,.0f}", f"{statistics.median(theirs):,.0f}", spread(ratios, 2)]


# ---- the page ------------------------------------------------------------------------------------------------------------


def machine(args, unset):
    """Where and with what all this was measured."""
    cpu = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    of = ", ".join(f"{key} {cpu[key]}" for key in ("cpu family", "model") if key in cpu)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "lightgbm")
                         if importlib.util.find_spec(name))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True).stdout.strip()
    memory = "tcmalloc" if TCMALLOC else "glibc's malloc: there is no tcmalloc"
    without = f" Unset for all, since they slow OpenBLAS down: {', '.join(unset)}." if unset else ""
    return (f"{datetime.date.today()}, commit {commit}, {cpu.get('model name', platform.machine())} ({of}), {os.cpu_count()} "
            f"cores; threads of each side: {args.threads}. Python {platform.python_version()}, {versions}; rivals run on "
            f"{memory}.{without}")


def write(page, name, text):
    """Replaces what stands between the markers of `name`, or appends it with them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = page.read_text() if page.exists() else "# Benchmarks\n\nMeasured by the scripts that each section names.\n"
    if begin not in old:
        old += f"\n{begin}\n{end}\n"
    before, after = old.split(begin)[0], old.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def tell(text):
    minutes, seconds = divmod(int(time.monotonic() - STARTED), 60)
    print(f"[{minutes:2}:{seconds:02}] {text}", file=sys.stderr, flush=True)


def main():
    def names(allowed):
        return lambda text: [name for name in text.split(",") if name in allowed or parser.error(f"{name} is none of {allowed}")]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=names(list(SHAPES)), default=list(SHAPES), help="of S, M, L, M32")
    parser.add_argument("--rivals", type=names(RIVALS), default=RIVALS, help=f"of {', '.join(RIVALS)}")
    parser.add_argument("--rounds", type=int, default=3, help="2 where a step takes more than 20 s")
    parser.add_argument("--dropout", type=lambda text: [float(p) for p in text.split(",")], default=[0.1, 0.0])
    parser.add_argument("--threads", type=int, default=2)
    backends = ["tiles", "bf16", "openblas"]
    parser.add_argument("--gemm", type=names(backends), default=backends[:2], help=f"who multiplies our matrices, of {backends}")
    parser.add_argument("--mkl-shim", action="store_true", help="tell PyTorch's MKL that the CPU is Intel's")
    parser.add_argument("--no-write", action="store_true", help=f"leave {PAGE} alone")
    parser.add_argument("--check", action="store_true", help="compare gradients instead")
    parser.add_argument("--predict", action="store_true", help="verdicts beside LightGBM's instead")
    parser.add_argument("--read", action="store_true", help="from files to tokens and verdicts, beside pandas and polars")
    parser.add_argument("--data", nargs=1, default=["data/unsw-nb15", "../shared/data/unsw-nb15"], help="folder of train.csv")
    parser.add_argument("--run", nargs="+", default=[], help="runs that finetune has filled, for --predict")
    parser.add_argument("--batch", type=int, help="of the rivals alone, to try this script; writes nothing")
    args = parser.parse_args()
    unset = [f"{name}={os.environ.pop(name)}" for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]
    if args.check:
        return models.check()
    if not pathlib.Path(BINARY).exists():
        sys.exit(f"no {BINARY}: `make build` makes it")
    if "compile" in args.rivals and not args.predict and not args.read and not shutil.which("g++"):
        parser.error("torch.compile needs g++ (`apt-get install g++`); or name other --rivals")
    args.mkl_shim = mkl_shim() if args.mkl_shim else None
    command = " ".join(["scripts/bench-rivals", *sys.argv[1:]])
    measure, section = training, "rivals-mkl-shim" if args.mkl_shim else "rivals"
    if args.predict:
        measure, section = verdicts, "rivals-predict"
    if args.read:
        measure, section = reading, "rivals-read"
    text = "\n\n".join([f"`{command}`: {machine(args, unset)}", *measure(args)])
    tell("done")
    print(text)
    if not args.no_write and not args.batch:
        write(PAGE, section, text)


if __name__ == "__main__":
    main()
