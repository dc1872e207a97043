"""Weights files: everything fits, or nothing changes."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress_models import WeightsError, load_weights


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def _equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def _wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        _wrapped,
        lambda state: {"model": state},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    ],
)
def test_torch_files_in_their_usual_dresses(tmp_path: Path, change: Any) -> None:
    source, target = _net(), _net()
    torch.save(change(source.state_dict()), tmp_path / "w.pt")
    assert not _equal(source, target)
    load_weights(target, tmp_path / "w.pt")
    assert _equal(source, target)


def test_safetensors(tmp_path: Path) -> None:
    source, target = _net(), _net()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert _equal(source, target)


def test_a_prefix_of_the_models_own_is_kept(tmp_path: Path) -> None:
    source, target = (nn.ModuleDict({"module": _net()}) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert _equal(source, target)


def test_names_and_shapes_that_do_not_fit_are_counted_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    model, before = _net(), _net()
    before.load_state_dict(model.state_dict())
    state = {name: value + 1 for name, value in model.state_dict().items()}
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        del state[name]
    state["extra"] = torch.ones(1)
    state["3.weight"] = torch.ones(3, 9)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "w.pt")
    message = str(caught.value)
    assert "4 missing from the file (1.weight, 1.bias, 1.running_mean and 1 more)" in message
    assert "1 unknown to the model (extra)" in message
    assert "1 of another shape (3.weight (3, 9) in the file, (3, 8) in the model)" in message
    assert _equal(before, model)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran_code"),))


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": _Evil()}, "evil.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Evil()))
    torch.save(_net(), "module.pt")  # a whole model is code as well
    refusal = "pickled code .*save torch.save\\(model.state_dict"
    for name, line in {"evil.pt": refusal, "module.pt": refusal, "plain.pkl": "not a torch file"}.items():
        with pytest.raises(WeightsError, match=line):
            load_weights(_net(), name)
    assert not Path("ran_code").exists()


def test_damaged_missing_and_strange_files(tmp_path: Path) -> None:
    torch.save(_net().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-200])
    (tmp_path / "text.pt").write_text("hello, this is no weights file")
    (tmp_path / "empty.pt").write_bytes(b"")
    save_file(_net().state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-20])
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1, "b": torch.ones(1)}, tmp_path / "mixed.pt")
    for name, line in {
        "cut.pt": "damaged",
        "text.pt": "damaged",
        "empty.pt": "damaged",
        "cut.safetensors": "damaged",
        "text.safetensors": "damaged",
        "none.pt": "no such file",
        ".": "no such file",
        "list.pt": "holds a list; a state dict is expected",
        "mixed.pt": "1 not tensors \\(a\\)",
    }.items():
        with pytest.raises(WeightsError, match=line) as caught:
            load_weights(_net(), tmp_path / name)
        assert "\n" not in str(caught.value)
