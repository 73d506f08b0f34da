"""What scripts/spark-demo runs. Usage: spark_demo.py BINARY ROWS"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pyarrow as pa
from pyspark.sql import SparkSession

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs/examples/spark"
PARTS = 8
SMALL = ["pretrain.steps=40", "finetune.steps=60", "data.synthetic.rows=2000", "data.synthetic.unlabelled_rows=500"]


def main():
    binary, rows = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="spark-demo-") as scratch:
        scratch = pathlib.Path(scratch)
        run, flows = scratch / "run", scratch / "flows"
        for stage in ["pretrain", "finetune"]:
            settings = [part for setting in SMALL for part in ("--set", setting)]
            tool(binary, "--quiet", stage, "--config", str(ROOT / "configs/tiny.yaml"), "--run", str(run), *settings)
        tool(binary, "synth", "--rows", str(rows), "--partitions", str(PARTS), "--output", str(flows))
        begun = time.monotonic()
        tool(binary, "--quiet", "predict", "--run", str(run), "--data", str(flows), "--columns", "proto", "--output", str(scratch / "one.arrow"))
        alone = time.monotonic() - begun
        with pa.ipc.open_stream(str(scratch / "one.arrow")) as stream:
            wanted = stream.read_all()
        plain, _, _ = under_spark(binary, run, flows, scratch, kill=False)
        found, seconds, killed = under_spark(binary, run, flows, scratch, kill=True)
        for what, table in [("without a kill", plain), ("with a kill", found)]:
            if as_bytes(table) != as_bytes(wanted):
                sys.exit(f"spark-demo: {what}: the verdicts are not those of one process")
        print(f"spark-demo: {found.num_rows} verdicts in {PARTS} partitions, one of two executors (process {killed}) killed with SIGKILL after the first "
              f"task: the same {len(as_bytes(wanted))} bytes as one process ({seconds:.0f} s with Spark's start, {alone:.0f} s one process alone)")


def tool(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"spark-demo: {' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def under_spark(binary, run, flows, scratch, kill):
    """The verdicts, how long they took, and the process that was killed."""
    sys.path.insert(0, str(EXAMPLE))
    from score import scored

    begun = time.monotonic()
    os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1", SPARK_WORKER_DIR=str(scratch / "work"))
    spark = (
        SparkSession.builder.master("local-cluster[2,1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.executor.memory", "1g")
        .config("spark.local.dir", str(scratch))
        .config("spark.submit.pyFiles", str(EXAMPLE / "score.py"))
        # a partition for each file
        .config("spark.sql.files.openCostInBytes", 1 << 40)
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.addPyFile(str(EXAMPLE / "score.py"))
    killed = []
    try:
        table = spark.read.option("header", True).csv(str(flows))
        if table.rdd.getNumPartitions() != PARTS:
            sys.exit(f"spark-demo: {table.rdd.getNumPartitions()} partitions, expected {PARTS}")
        if kill:
            threading.Thread(target=kill_one, args=(spark.sparkContext.statusTracker(), killed), daemon=True).start()
        found = scored(table, binary, str(run), columns=["proto"]).toArrow()
        if kill and not killed:
            sys.exit("spark-demo: all tasks were done before an executor could be killed: give more rows")
        return found, time.monotonic() - begun, killed[0] if killed else None
    finally:
        spark.stop()


def kill_one(tracker, killed):
    """Kills an executor of ours once a task is done and others are under way."""
    while True:
        for stage in tracker.getActiveStageIds():
            info = tracker.getStageInfo(stage)
            if info and info.numTasks == PARTS and info.numCompletedTasks >= 1 and info.numActiveTasks >= 1:
                executors = [pid for pid in descendants(os.getpid()) if "CoarseGrainedExecutorBackend" in command_line(pid)]
                if executors:
                    killed.append(executors[0])
                    os.kill(executors[0], signal.SIGKILL)
                    return
        time.sleep(0.05)


def descendants(pid):
    """Processes that this one has started, and those that they have."""
    parents = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            own, rest = status.read_text().split(" (", 1)
            parents.setdefault(int(rest.rsplit(") ", 1)[1].split()[1]), []).append(int(own))
        except (OSError, ValueError):
            pass  # it has ended meanwhile
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def as_bytes(table):
    """A table as one batch of Arrow, in the order of its ids: Spark need not keep that of partitions."""
    columns = {"id": pa.string(), "probability": pa.float32(), "verdict": pa.string(), "proto": pa.string()}
    ids = [int(name) for name in table["id"].to_pylist()]
    order = pa.array(sorted(range(len(ids)), key=ids.__getitem__))
    # new arrays: old ones may have room for nulls that are not there
    arrays = [pa.array(table[name].take(order).to_pylist(), kind) for name, kind in columns.items()]
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays(arrays, list(columns))
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


main()
