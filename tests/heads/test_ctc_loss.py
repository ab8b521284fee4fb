"""The CTC loss of many problems is torch's, with its gradient, for all that the scaled domain can
and cannot hold.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe.heads.ctc import loss as module
from probe.heads.ctc.loss import Scratch, Targets, ctc_loss, loss_and_gradient

N_SYMBOLS = 5


def batch_of(
    labels: list[list[int]], lengths: list[int], n_problems: int, scale: float, seed: int = 0
) -> tuple[Tensor, Targets]:
    """Random logits, (batch, frame, problem, symbol), NaN past each length, and their targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(
        len(lengths), max(lengths), n_problems, N_SYMBOLS, generator=generator
    )
    for i, length in enumerate(lengths):
        logits[i, length:] = torch.nan
    return logits, Targets.of(
        [torch.tensor(item) for item in labels], torch.tensor(lengths), N_SYMBOLS, logits
    )


def by_torch(logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Losses and the gradient of their sum by `F.ctc_loss` in float64, one utterance of one problem
    at a time.
    """
    loss = torch.zeros(logits.shape[0], logits.shape[2], dtype=torch.float64)
    gradient = torch.zeros(logits.shape, dtype=torch.float64)
    for i, (labels, length) in enumerate(
        zip(targets.labels, targets.lengths.tolist(), strict=True)
    ):
        for problem in range(logits.shape[2]):
            one = logits[i, :length, problem].double().requires_grad_()
            value = F.ctc_loss(
                one.log_softmax(1)[:, None], labels[None], [length], [len(labels)], reduction="none"
            )[0]
            loss[i, problem] = value.item()
            if value.isfinite():
                gradient[i, :length, problem] = torch.autograd.grad(value, one)[0]
    return loss, gradient


def assert_torchs(logits: Tensor, targets: Targets) -> None:
    found, expected = loss_and_gradient(logits, targets), by_torch(logits, targets)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-4, atol=1e-5)


@pytest.fixture
def fallbacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences that went to the log domain, call by call."""
    counted: list[int] = []
    log_domain = module._in_log_domain
    monkeypatch.setattr(
        module,
        "_in_log_domain",
        lambda logits, *rest: (counted.append(len(logits)), log_domain(logits, *rest))[1],
    )
    return counted


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, N_SYMBOLS - 1), max_size=7), st.integers(1, 12)),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.5, 3.0, 100.0]),
    st.integers(0, 1000),
)
@example(
    [([1], 3), ([], 1)], 1, 100.0, 178
)  # the likeliest path begins with a probability of 1.8e-45
def test_loss_and_gradient_are_torchs(
    utterances: list[tuple[list[int], int]], n_problems: int, scale: float, seed: int
) -> None:
    labels, lengths = map(list, zip(*utterances, strict=True))
    assert_torchs(*batch_of(labels, lengths, n_problems, scale, seed))


@pytest.mark.parametrize("at_once", [1, 1 << 15])
def test_long_utterances_stay_in_the_scaled_domain(
    fallbacks: list[int], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setitem(module.AT_ONCE, "cpu", at_once)
    labels = [torch.randint(1, N_SYMBOLS, (n,)).tolist() for n in (120, 7, 0, 299)]
    assert_torchs(*batch_of(labels, [400, 300, 250, 299 + 2 * 120], 3, 1.0))
    assert fallbacks == []


@pytest.mark.parametrize("blank", [5.0, 20.0, 35.0])
def test_heads_that_write_only_blanks_stay_in_the_scaled_domain(
    fallbacks: list[int], blank: float
) -> None:
    logits, targets = batch_of([[1, 2, 3, 4] * 20], [400], 2, 0.5)
    logits[..., 0] += blank
    assert_torchs(logits, targets)
    assert fallbacks == []


def test_peaked_logits_are_computed_in_the_log_domain(fallbacks: list[int]) -> None:
    logits, targets = batch_of([[1, 2, 2, 3], [4, 1]], [30, 25], 3, 100.0)
    logits[1, :, 1] /= 100  # its neighbours on both sides do not take it with them
    assert_torchs(logits, targets)
    assert fallbacks == [5]


def test_utterances_too_short_for_their_labels_have_infinite_loss_and_no_gradient(
    fallbacks: list[int],
) -> None:
    logits, targets = batch_of([[1, 1], [1, 1], [1, 2], [3, 3, 3]], [2, 3, 2, 4], 2, 1.0)
    loss, gradient = loss_and_gradient(logits, targets)
    assert targets.fits.tolist() == [False, True, True, False]
    assert loss.isinf().all(1).tolist() == [True, False, False, True]
    assert not gradient[~targets.fits].any()
    assert fallbacks == []


def test_the_gradient_is_that_of_differences() -> None:
    labels, lengths = (
        [torch.tensor([1, 2, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([3])],
        torch.tensor([6, 3, 1]),
    )
    logits = torch.randn(3, 6, 2, N_SYMBOLS, dtype=torch.float64, requires_grad=True)
    targets = Targets.of(labels, lengths, N_SYMBOLS, logits)
    assert torch.autograd.gradcheck(lambda values: ctc_loss(values, targets), logits)


def test_a_problem_does_not_depend_on_the_others_or_on_memory_used_before() -> None:
    logits, targets = batch_of([[1, 2, 2, 3], [4]], [14, 9], 4, 2.0)
    scratch = Scratch()
    loss_and_gradient(torch.full_like(logits, math.nan), targets, scratch)
    together = [value.clone() for value in loss_and_gradient(logits, targets, scratch)]
    for problem in range(4):
        alone = loss_and_gradient(logits[:, :, problem : problem + 1], targets)
        torch.testing.assert_close(together[0][:, problem], alone[0][:, 0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            together[1][:, :, problem], alone[1][:, :, 0], rtol=1e-5, atol=1e-6
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_a_cpu_gives() -> None:
    logits, targets = batch_of([[1, 2, 2, 3], [4, 1]], [30, 25], 3, 2.0)
    far = logits.cuda()
    found = loss_and_gradient(far, Targets.of(targets.labels, targets.lengths, N_SYMBOLS, far))
    for on_gpu, on_cpu in zip(found, loss_and_gradient(logits, targets), strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-5)
