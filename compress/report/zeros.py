"""What each zero bought, in plain sentences: what compaction removed, what stays as zeros in dense kernels.

The field's commonest complaint is a model pruned by 90 % that is neither smaller nor faster. These sentences
split every resource into the part that is really gone and the part that only a coded file can use.
"""

from dataclasses import dataclass

from compress.report.fields import Report, number, total
from compress.report.formats import change, count, ms, operations, percent, size
from compress.report.words import speed, speedup_claimed


@dataclass(frozen=True)
class Bought:
    """What the zeros bought of one resource: its figures before and after, and the sentence between them."""

    resource: str
    dense: str
    pruned: str
    sentence: str


def bought(report: Report) -> list[Bought]:
    """What each zero bought: weights, bytes, multiply-accumulates, milliseconds; unknown ones left out."""
    found = (_weights(report), _bytes(report), _macs(report), _milliseconds(report))
    return [one for one in found if one is not None]


def counts(report: Report) -> tuple[float | None, float | None, float | None]:
    """Prunable weights of the dense model, those left after compaction, and the nonzero ones among them."""
    named = (
        ("dense", "weights", "weights_dense"),
        ("pruned", "weights", "weights"),
        ("pruned", "nonzero", "nonzero"),
    )
    dense, left, nonzero = (
        total(report, layer) if (n := number(report, model, key)) is None else n for model, key, layer in named
    )
    return dense, left, nonzero


def _weights(report: Report) -> Bought | None:
    dense, left, nonzero = counts(report)
    if dense is None or left is None or nonzero is None or dense == 0:
        return None
    if nonzero == dense:
        return Bought("Weights", count(dense), f"{count(nonzero)} nonzero", "No weight was zeroed.")
    sentence = f"Of {count(dense)} prunable weights {count(dense - nonzero)} were zeroed. "
    if left < dense:
        sentence += f"Compaction removed {count(dense - left)} ({percent((dense - left) / dense, 1)}) for good"
    else:
        sentence += "Compaction removed none: no channel became empty"
    sentence += (
        f"; {count(left - nonzero)} stay as zeros inside the dense kernels." if left > nonzero else "; no zero remains."
    )
    return Bought("Weights", count(dense), f"{count(nonzero)} nonzero", sentence)


def _bytes(report: Report) -> Bought | None:
    before, after = number(report, "dense", "size_bytes"), number(report, "pruned", "size_bytes")
    if before is None or after is None:
        return None
    dense, left, nonzero = counts(report)
    if dense is not None and left == dense:
        said = [f"Compaction had nothing to remove: the file is {size(after)}, the dense one {size(before)}."]
    else:
        said = [f"Compaction takes the file from {size(before)} to {size(after)} ({change(before, after)})."]
    if left is not None and left == nonzero:
        said.append("No zero remains for sparse coding to save.")
    elif left is not None and nonzero is not None:
        said.append(f"The {count(left - nonzero)} zeros that remain take full space in it{_sparse(report, after)}")
    zipped = number(report, "pruned", "size_zip_bytes")
    said += [f"Zipped, model.onnx takes {size(zipped)}."] if zipped is not None else []
    return Bought("Bytes", size(before), size(after), " ".join(said))


def _sparse(report: Report, after: float) -> str:
    coded = number(report, "pruned", "size_sparse_bytes")
    if coded is None:
        return "."
    if coded >= after:
        return f"; coding them sparsely saves nothing here ({size(coded)})."
    return (
        f"; model.sparse.onnx, the same weights coded sparsely, takes {size(coded)}. "
        "ONNX Runtime unpacks it while loading, so it is smaller but not faster."
    )


def _macs(report: Report) -> Bought | None:
    before, after = number(report, "dense", "macs"), number(report, "pruned", "macs")
    if before is None or after is None:
        return None
    if after < before:
        sentence = f"Compaction removes {percent(1 - after / before, 1)} of the multiply-accumulates."
    else:
        sentence = "Compaction removed no multiply-accumulate."
    needed = total(report, "macs_nonzero")
    if needed is not None and needed < after:
        sentence += (
            f" {operations(after - needed)} of the {operations(after)} left multiply a zero: "
            "stock ONNX Runtime runs zeros at full price."
        )
    return Bought("Multiply-accumulates", operations(before), operations(after), sentence)


def _milliseconds(report: Report) -> Bought | None:
    before = number(report, "dense", "latency_ms", "p50")
    after = number(report, "pruned", "latency_ms", "p50")
    if before is None or after is None:
        return None
    dense, left, nonzero = counts(report)
    sentence = speed(report)
    if dense is not None and left is not None and nonzero is not None:
        if left < dense and speedup_claimed(report):
            sentence += " It comes from compaction, the narrower dense network."
        if left > nonzero:
            sentence += " The zeros that remain buy no time in stock ONNX Runtime."
        if left == dense > nonzero:
            sentence += ' To buy milliseconds, prune whole channels (units = "channel").'
    return Bought("Milliseconds", ms(before), ms(after), sentence)
