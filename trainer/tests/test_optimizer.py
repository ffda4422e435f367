import pytest
import torch

from trainer.optimizer import MasterAdamW, rate_factor
from trainer.spec import Hyperparameters


def test_small_updates_of_bfloat16_weights_are_not_rounded_away() -> None:
    weight = torch.nn.Parameter(torch.full((4, 4), 1.0, dtype=torch.bfloat16))
    optimizer = MasterAdamW([("weight", weight)], weight_decay=0.0)
    for _ in range(40):  # each update is 2e-4: an eighth of what bfloat16 can tell at 1.0
        weight.sum().backward()
        optimizer.collect()
        optimizer.clip(1.0)
        optimizer.step(learning_rate=2e-4)
    assert weight[0, 0].item() == pytest.approx(1 - 40 * 2e-4, abs=4e-3)


def test_updates_are_those_of_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = MasterAdamW(list(ours.named_parameters()), weight_decay=0.1)
    reference = torch.optim.AdamW(
        [
            {"params": [theirs.weight], "weight_decay": 0.1},
            {"params": [theirs.bias], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    for _ in range(3):
        data = torch.randn(5, 3)
        ours(data).square().sum().backward()
        theirs(data).square().sum().backward()
        mine.collect()
        norm = mine.clip(0.5)
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert norm == pytest.approx(expected.item())
        mine.step(learning_rate=1e-2)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize(
    ("scheduler", "halfway", "end"),
    [("linear", 0.5, 0.0), ("cosine", 0.5, 0.0), ("constant", 1, 1)],
)
def test_the_rate_warms_up_and_decays(scheduler: str, halfway: float, end: float) -> None:
    given = Hyperparameters(scheduler=scheduler, warmup_ratio=0.2)
    assert factor(given, begun=0.0, done=0.1) == pytest.approx(0.5)
    assert factor(given, begun=0.2, done=0.3) == pytest.approx(1.0)
    assert factor(given, begun=0.6, done=0.7) == pytest.approx(halfway)
    assert factor(given, begun=1.0, done=1.0) == pytest.approx(end)


@pytest.mark.parametrize(("scheduler", "end"), [("linear", 0.1), ("cosine", 0.1), ("constant", 1)])
def test_the_rate_ends_at_its_least(scheduler: str, end: float) -> None:
    given = Hyperparameters(scheduler=scheduler, warmup_ratio=0.2, min_learning_rate_ratio=0.1)
    assert factor(given, begun=0.2, done=0.3) == pytest.approx(1.0)
    assert factor(given, begun=1.0, done=1.0) == pytest.approx(end)


def test_steps_of_warming_up_stand_in_for_a_share_of_the_run() -> None:
    given = Hyperparameters(scheduler="linear", warmup_ratio=0.5, warmup_steps=10)
    assert factor(given, begun=0.0, done=0.01) == pytest.approx(0.1)
    assert factor(given, begun=0.1, done=0.11) == pytest.approx(1.0)
    none = Hyperparameters(scheduler="linear", warmup_steps=0)
    assert factor(none, begun=0.0, done=0.01) == pytest.approx(1.0)
    whole = Hyperparameters(warmup_steps=1000)
    assert factor(whole, begun=0.99, done=1.0) == pytest.approx(1.0)


def factor(given: Hyperparameters, *, begun: float, done: float) -> float:
    return rate_factor(given, begun=begun, done=done, total_steps=100)
