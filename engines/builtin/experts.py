"""The feed-forward of a mixture of experts: each token goes through the few that its router likes.

As Qwen3-MoE has it: the router's softmax over all experts in float32, the best `chosen` of them,
their weights made to sum to one where the config says so (norm_topk_prob).
"""

import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)


class ExpertsFeedForward:
    """A `FeedForward` whose rows each visit `chosen` of the experts.

    Rows are sorted by expert, so that each expert hit is read once and multiplies one matrix; those
    nobody chose are not touched. What a row gets does not depend on the rows beside it.
    """

    def __init__(
        self,
        *,
        router: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        chosen: int,
        normalized: bool,
    ) -> None:
        self.router = router  # [experts, hidden]
        self.gate_up = gate_up  # [experts, 2 intermediate, hidden]
        self.down = down  # [experts, hidden, intermediate]
        self.chosen = chosen
        self.normalized = normalized
        self._multiply = grouped if can_group(gate_up) else one_by_one

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        shares, experts = self._route(rows)
        visited = experts.flatten()
        order = visited.argsort(stable=True)
        ends = visited.bincount(minlength=len(self.router)).cumsum(0).int()
        gate, up = self._multiply(rows[order // self.chosen], self.gate_up, ends).chunk(2, dim=-1)
        done = self._multiply(F.silu(gate) * up, self.down, ends)
        back = torch.empty_like(done)
        back[order] = done  # as the router named them: a row's visits adjoin
        return (back.view(*shares.shape, -1) * shares[..., None]).sum(1)

    def _route(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For each row, the shares of its experts in the sum, and who they are: [rows, chosen]."""
        likings = F.linear(rows, self.router).softmax(dim=-1, dtype=torch.float32)
        shares, experts = likings.topk(self.chosen, dim=-1)
        if self.normalized:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return shares.to(rows.dtype), experts

    @property
    def total_bytes(self) -> int:
        return sum(each.nbytes for each in (self.router, self.gate_up, self.down))


def grouped(rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Rows up to ends[0] times weights[0] transposed, the next up to ends[1] times weights[1], ..."""
    return F.grouped_mm(rows, weights.transpose(1, 2), offs=ends)


def one_by_one(rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The same, where torch has no grouped product: a call for each expert that is hit."""
    out = rows.new_empty(len(rows), weights.shape[1])
    first = 0
    for expert, end in enumerate(ends.tolist()):
        if end > first:
            torch.mm(rows[first:end], weights[expert].T, out=out[first:end])
            first = end
    return out


def can_group(weights: torch.Tensor) -> bool:
    """Whether torch has the grouped product on this device, in this dtype and of these sizes."""
    ends = torch.zeros(len(weights), dtype=torch.int32, device=weights.device)
    ends[-1] = 1
    try:
        grouped(weights.new_zeros(1, weights.shape[2]), weights, ends)
    except (RuntimeError, NotImplementedError):
        return False
    return True
