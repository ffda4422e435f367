"""The feed-forward of a mixture of experts against transformers' block, and its own promises."""

import pytest
import torch
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from engines.builtin.experts import ExpertsFeedForward, can_group, grouped, one_by_one


def make_pair(*, normalized=True, chosen=3, experts=8):
    """Ours and theirs, of the same random weights."""
    config = Qwen3MoeConfig(
        hidden_size=32,
        moe_intermediate_size=24,
        num_experts=experts,
        num_experts_per_tok=chosen,
        norm_topk_prob=normalized,
    )
    torch.manual_seed(1)
    theirs = Qwen3MoeSparseMoeBlock(config).eval().requires_grad_(False)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = ExpertsFeedForward(
        router=theirs.gate.weight,
        gate_up=theirs.experts.gate_up_proj,
        down=theirs.experts.down_proj,
        chosen=chosen,
        normalized=normalized,
    )
    return ours, theirs


@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("normalized", [True, False])
def test_equals_transformers(rows, normalized):
    ours, theirs = make_pair(normalized=normalized)
    hidden = torch.randn(rows, 32)
    torch.testing.assert_close(ours(hidden), theirs(hidden[None])[0], atol=1e-5, rtol=1e-4)


def test_a_row_gets_the_same_whoever_is_beside_it():
    ours, _ = make_pair()
    hidden = torch.randn(20, 32)
    together = ours(hidden)
    for index in (0, 7, 19):
        torch.testing.assert_close(together[index], ours(hidden[index : index + 1])[0])


def test_experts_nobody_chose_are_not_touched():
    ours, _ = make_pair(chosen=1)
    hidden = torch.randn(1, 32)
    chosen = int((hidden @ ours.router.T).argmax())
    others = [index for index in range(8) if index != chosen]
    expected = ours(hidden)
    ours.gate_up = ours.gate_up.clone()
    ours.gate_up[others] = torch.nan
    torch.testing.assert_close(ours(hidden), expected)


def test_all_experts_may_be_chosen():
    ours, theirs = make_pair(chosen=8)
    hidden = torch.randn(5, 32)
    torch.testing.assert_close(ours(hidden), theirs(hidden[None])[0], atol=1e-5, rtol=1e-4)


def test_bfloat16_stays_close():
    ours, _ = make_pair()
    rough = ExpertsFeedForward(
        router=ours.router.bfloat16(),
        gate_up=ours.gate_up.bfloat16(),
        down=ours.down.bfloat16(),
        chosen=ours.chosen,
        normalized=True,
    )
    hidden = torch.randn(4, 32).bfloat16()
    out = rough(hidden)
    assert out.dtype is torch.bfloat16
    error = (out.float() - ours(hidden.float())).abs().max()
    assert error < 0.05 * ours(hidden.float()).abs().max()
    assert rough.total_bytes * 2 == ours.total_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_call_for_all_experts_or_one_for_each(dtype):
    rows, weights = torch.randn(9, 32, dtype=dtype), torch.randn(5, 24, 32, dtype=dtype)
    ends = torch.tensor([0, 4, 4, 8, 9], dtype=torch.int32)  # two experts without rows
    assert can_group(weights)
    torch.testing.assert_close(grouped(rows, weights, ends), one_by_one(rows, weights, ends))


def test_sizes_that_cannot_be_grouped_go_one_by_one():
    weights = torch.randn(3, 5, 7)  # no multiples of sixteen bytes
    assert not can_group(weights)
    rows, ends = torch.randn(4, 7), torch.tensor([1, 1, 4], dtype=torch.int32)
    expected = torch.cat([rows[:1] @ weights[0].T, rows[1:] @ weights[2].T])
    torch.testing.assert_close(one_by_one(rows, weights, ends), expected)
