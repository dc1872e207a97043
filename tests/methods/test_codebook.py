from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress import cost
from compress.budget import Budget
from compress.compaction import compact
from compress.descent import Optimization
from compress.errors import UsageError
from compress.method import PruningMethod
from compress.methods.codebook import Codebook, centroids, nearest
from compress.methods.magnitude import Magnitude
from compress.onnx_file import predict, session
from compress.rounds import Plan, prune
from compress_exporters import Request, find
from tests.support import element_units, tiny_task, view_of

W = "w.weight"


def test_k_means_from_even_distances_by_hand() -> None:
    """From (0, 6, 12): (0, 1), (4), (12), then (0, 1) and 4 have moved apart; a middle without members is left out."""
    assert [0.5, 4.0, 12.0] == centroids(torch.tensor([0.0, 1.0, 4.0, 12.0]), 3).tolist()
    assert [0.0, 9.0] == centroids(torch.tensor([0.0, 9.0]), 3).tolist()
    assert [0, 0, 1, 1] == nearest(torch.tensor([-3.0, 1.9, 2.1, 9.0]), torch.tensor([0.0, 4.0])).tolist()


def test_no_centroid_can_move_for_the_better() -> None:
    """A fixed point of Lloyd's iteration: every weight has its nearest centroid, every centroid is a mean."""
    weights = torch.randn(2000, generator=torch.Generator().manual_seed(0)).double()
    book = centroids(weights, 8)
    index = nearest(weights, book)
    assert torch.equal((weights[:, None] - book).abs().argmin(1), index)
    torch.testing.assert_close(torch.stack([weights[index == k].mean() for k in range(8)]), book)


def test_the_gradient_of_a_centroid_is_the_sum_of_its_members() -> None:
    values = {W: torch.tensor([[0.0, 1.0], [9.0, 0.2]])}
    masks = {W: torch.tensor([[True, True], [True, False]])}
    with torch.no_grad():
        state = Codebook(bits_linear=1).init(view_of(values, Budget()), masks)
    assert [0.5, 9.0] == state.trainable[W].tolist()
    used = Codebook().effective(values, state, training=True)[W]
    assert [[0.5, 0.5], [9.0, 0.0]] == used.tolist()
    used.backward(torch.tensor([[1.0, 2.0], [4.0, 8.0]]))
    assert state.trainable[W].grad is not None
    assert [3.0, 4.0] == state.trainable[W].grad.tolist()  # of the zero, nothing


def test_a_centroid_of_zero_prunes_nothing() -> None:
    """The two small weights cancel; as 0 they would be lost."""
    values = {W: torch.tensor([[-1.0, -0.1], [0.1, 1.0]])}
    with torch.no_grad():
        state = Codebook(bits_linear=2).init(view_of(values, Budget()), {})
        state.trainable[W].copy_(torch.tensor([-1.0, 0.0, 0.1, 1.0]))
        outcome = Codebook().finish(view_of(values, Budget()), state)
    assert outcome.values is not None
    assert 4 == int(outcome.values[W].count_nonzero())
    torch.testing.assert_close(outcome.values[W], torch.tensor([[-1.0, 0.0], [0.1, 1.0]]))


def test_convolutions_have_their_own_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    values = {
        "c.weight": torch.rand(9, 9, 3, 3, generator=generator),
        "l.weight": torch.rand(30, 30, generator=generator),
    }
    with torch.no_grad():
        books = Codebook(bits_conv=3, bits_linear=2).init(view_of(values, Budget()), {}).trainable
    assert {"c.weight": 8, "l.weight": 4} == {name: len(book) for name, book in books.items()}


class Linear(nn.Module):
    """Two linear layers on 1x8x8 images, wide enough for indices to pay."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 100)
        self.narrow = nn.Linear(100, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(torch.relu(self.wide(x.flatten(1))))


def test_shared_values_survive_compaction_and_make_the_sparse_file_smaller(tmp_path: Path) -> None:
    task = tiny_task(network=Linear)
    weights = {name: task.model.get_parameter(name) for name in cost.prunable(task.model)}
    images = torch.rand(8, 1, 8, 8)

    def step(
        method: PruningMethod, sparsity: float, masks: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], int]:
        """Run a step, compact, export; the masks, and the size of the sparse file."""
        some = Optimization(1, batch_size=16)
        plan = Plan("p", method, element_units(weights), Budget(sparsity=sparsity), some, Optimization(0))
        masks = prune(task, plan, masks, cost.prunable(task.model))
        model = compact(task.model, images[:2]).model.eval()
        artifact = find("sparse").export(Request(model, (1, 8, 8), 8), tmp_path / "model.sparse.onnx")
        with torch.no_grad():
            expected = model(images).numpy()
        # float32 sums in another order
        np.testing.assert_allclose(predict(session(artifact.path), images.numpy()), expected, rtol=1e-4, atol=1e-5)
        shared = [len(model.get_parameter(name).unique()) for name in cost.prunable(model)]
        assert isinstance(method, Magnitude) or max(shared) <= 2**5 + 1
        return masks, artifact.path.stat().st_size

    masks, alone = step(Magnitude(), 0.6, {})
    left = cost.nonzero_count(task.model)
    _, with_codebook = step(Codebook(), 0.0, masks)
    assert left == cost.nonzero_count(task.model)
    assert with_codebook < alone / 2  # indices of 5 bits in place of 32; gaps, biases and the graph take what they took


@pytest.mark.parametrize("bits", [0, 17])
def test_impossible_knobs_are_refused(bits: int) -> None:
    with pytest.raises(UsageError, match="bits"):
        Codebook(bits_conv=bits)
