"""Verdicts of nids-mixer on a Spark DataFrame: one process of the binary for each partition.

    from score import scored
    verdicts = scored(flows, binary="/opt/nids-mixer", run="/models/run", columns=["proto"])

Rows go to the binary as an Arrow stream and come back as one, a verdict a row, in the order of the partition. Nothing is installed on
the executors but the binary and the run folder, which every one of them must find at the same path. A process that fails fails its
task, with what it said, and Spark runs the task again: a verdict depends on its row alone, so that the second try gives the same bytes.
"""

import subprocess
import tempfile
import threading

import pyarrow as pa

VERDICT = "id string, probability float, verdict string"


def scored(flows, binary, run, options=(), columns=(), more=""):
    """A DataFrame of verdicts. `columns` are carried along as texts; `more` are columns of verdicts that the run has beside those of
    VERDICT, as in "p_value double"."""
    command = [binary, "--quiet", "predict", "--run", run, "--data", "-", "--format", "arrow", *options]
    command += ["--columns", ",".join(columns)] if columns else []
    schema = ", ".join([VERDICT, *([more] if more else []), *(f"`{column}` string" for column in columns)])
    return flows.mapInArrow(lambda batches: through(command, batches), schema)


def through(command, batches):
    """Record batches of verdicts on those of flows."""
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return  # a partition without rows
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told)
        failed = []
        # writing and reading at the same time: a pipe holds some kilobytes
        writer = threading.Thread(target=feed, args=(process.stdin, first, batches, failed), daemon=True)
        writer.start()
        try:
            with pa.ipc.open_stream(process.stdout) as verdicts:
                yield from verdicts
            writer.join()
        except pa.ArrowInvalid as error:
            failed.append(error)  # what the binary says is more to the point
        finally:
            # who wants no more verdicts, as after a LIMIT, ends the process
            process.stdout.close()
            code = stop(process)
        told.seek(0)
        if code != 0 or failed:
            said = told.read().decode(errors="replace").strip()
            raise RuntimeError(f"nids-mixer ended with {code}: {said} {failed or ''}")


def feed(to, first, batches, failed):
    """Writes batches; the mark of the end comes last, and not at all if Spark fails to give one of them."""
    try:
        with to:
            stream = pa.ipc.new_stream(to, first.schema)
            stream.write_batch(first)
            for batch in batches:
                stream.write_batch(batch)
            stream.close()
    except Exception as error:  # of this thread; told by the other
        failed.append(error)


def stop(process):
    """The exit code of a process that has written all, or is to write no more."""
    try:
        return process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
