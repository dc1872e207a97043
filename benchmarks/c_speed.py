"""C code of a pruned network against ONNX Runtime, both timed from C, interleaved; Python's timing beside it.

    OMP_NUM_THREADS=1 python benchmarks/c_speed.py RUN --headers DIR

RUN is the directory of a run with the formats onnx, c and c-int8; DIR holds onnxruntime_c_api.h (Debian's package
libonnxruntime-dev has it). One thread. Leaves results/c_speed-NAME.json, NAME that of RUN: medians, and ratios of
paired block medians with their spread (5th to 95th percentile).
"""

import argparse
import ctypes
import functools
import json
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnxruntime
from reproduce import HERE

from compress.machine import cpu_name
from compress.onnx_file import session
from compress.report.store import read_json
from compress.targets import _device
from compress.targets import c as target
from compress_exporters._c.host import FLAGS, compiler

SOURCE = r"""
#define _POSIX_C_SOURCE 199309L
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
typedef struct { const OrtApi *api; OrtSession *session; OrtValue *input; } Net;
static void ok(const OrtApi *api, OrtStatus *status)
{
  if (status) { fprintf(stderr, "%s\n", api->GetErrorMessage(status)); abort(); }
}
Net *net_open(const char *path, float *data, size_t count, const int64_t *shape, size_t rank);
Net *net_open(const char *path, float *data, size_t count, const int64_t *shape, size_t rank)
{
  static OrtEnv *env;
  Net *net = malloc(sizeof *net);
  OrtSessionOptions *options;
  OrtMemoryInfo *memory;
  net->api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!env) ok(net->api, net->api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "c_speed", &env));
  ok(net->api, net->api->CreateSessionOptions(&options));
  ok(net->api, net->api->SetIntraOpNumThreads(options, 1));
  ok(net->api, net->api->SetInterOpNumThreads(options, 1));
  ok(net->api, net->api->CreateSession(env, path, options, &net->session));
  ok(net->api, net->api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  ok(net->api, net->api->CreateTensorWithDataAsOrtValue(memory, data, count * sizeof *data, shape, rank,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &net->input));
  return net;
}
void net_block(Net *net, int count, long long *ns);
void net_block(Net *net, int count, long long *ns)
{
  const char *in[] = {"input"}, *out[] = {"output"};
  struct timespec a, b;
  OrtValue *answer = NULL;
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (int i = 0; i < count; ++i) {
    ok(net->api, net->api->Run(net->session, NULL, in, (const OrtValue *const *)&net->input, 1, out, 1, &answer));
    clock_gettime(CLOCK_MONOTONIC, &b);
    ns[i] = (b.tv_sec - a.tv_sec) * 1000000000LL + (b.tv_nsec - a.tv_nsec);
    a = b;
  }
  net->api->ReleaseValue(answer);
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--headers", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    asked = parser.parse_args()
    report = read_json(asked.run / "report.json")
    portable = tuple(flag for flag in FLAGS if flag != "-march=native")
    with tempfile.TemporaryDirectory() as folder:
        library = _runtime(Path(folder), asked.headers)
        blocks = {
            "ort dense": _ort(library, asked.run / "dense.onnx"),
            "ort compacted": _ort(library, asked.run / "model.onnx"),
            "c dense": target.timed_block(asked.run / "dense.c", FLAGS),
            "c": target.timed_block(asked.run / "model.c", FLAGS),
            "c dense, portable": target.timed_block(asked.run / "dense.c", portable),
            "c portable": target.timed_block(asked.run / "model.c", portable),
            "c-int8": target.timed_block(asked.run / "model.int8.c", FLAGS),
            "ort dense, from Python": _python(asked.run / "dense.onnx"),
            "ort compacted, from Python": _python(asked.run / "model.onnx"),
        }
        rows = _device.timed(list(blocks.values()), 200, 40, asked.seconds)
    medians = {name: np.array([np.median(block) for block in row]) for name, row in zip(blocks, rows, strict=True)}
    result = {
        "cpu": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "compression": report["pruned"]["compression"],
        "accuracy": {a["path"]: a["accuracy"] for a in report["artifacts"]},
        "p50_us": {name: round(float(np.median(values)) / 1e3, 3) for name, values in medians.items()},
        "ratios": {
            f"{slow} / {fast}": [
                round(x, 2) for x in np.percentile(medians[slow] / medians[fast], (50, 5, 95)).tolist()
            ]
            for slow in ("ort dense", "ort compacted")
            for fast in ("c", "c portable", "c-int8")
        },
    }
    (HERE / "results" / f"c_speed-{asked.run.resolve().name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _runtime(folder: Path, headers: Path) -> ctypes.CDLL:
    """ONNX Runtime's C API, from the Python package's own library, with the timing loop."""
    capi = Path(onnxruntime.__file__).parent / "capi"
    shared = next(capi.glob("libonnxruntime.so.*"))
    (folder / "libonnxruntime.so.1").symlink_to(shared)
    (folder / "libonnxruntime.so").symlink_to(shared)
    (folder / "net.c").write_text(SOURCE)
    words = [compiler(), "-std=gnu99", "-O2", "-shared", "-fPIC", f"-I{headers}", str(folder / "net.c"), f"-L{folder}"]
    subprocess.run([*words, "-lonnxruntime", f"-Wl,-rpath,{folder}", "-o", str(folder / "net.so")], check=True)
    library = ctypes.CDLL(str(folder / "net.so"))
    library.net_open.restype = ctypes.c_void_p
    return library


def _ort(library: ctypes.CDLL, file: Path) -> target.Block:
    entry = session(file).get_inputs()[0]
    image = np.random.default_rng(0).standard_normal(entry.shape).astype(np.float32)
    shape = (ctypes.c_int64 * len(entry.shape))(*entry.shape)
    data = image.ctypes.data_as(ctypes.c_void_p)
    net = library.net_open(str(file).encode(), data, ctypes.c_size_t(image.size), shape, ctypes.c_size_t(len(shape)))
    return functools.partial(_block, library, net, image)


def _block(library: ctypes.CDLL, net: int, image: np.ndarray, count: int) -> list[int]:
    """`image` is what the session reads: it has to live as long."""
    samples = np.zeros(count, np.int64)
    library.net_block(ctypes.c_void_p(net), count, ctypes.c_void_p(samples.ctypes.data))
    found: list[int] = samples.tolist()
    return found


def _python(file: Path) -> target.Block:
    opened = session(file)
    entry = opened.get_inputs()[0]
    feed = {entry.name: np.random.default_rng(0).standard_normal(entry.shape).astype(np.float32)}

    def block(count: int) -> list[int]:
        samples = []
        for _ in range(count):
            start = perf_counter_ns()
            opened.run(None, feed)
            samples.append(perf_counter_ns() - start)
        return samples

    return block


if __name__ == "__main__":
    main()
