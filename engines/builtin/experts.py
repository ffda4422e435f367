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

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        shares, experts = self._route(rows)
        order = experts.flatten().argsort(stable=True)
        visits = rows[order // self.chosen]  # grouped by expert
        done = torch.empty_like(visits)
        first = 0
        for expert, count in enumerate(experts.flatten().bincount().tolist()):
            if count:
                own = slice(first, first + count)
                gate, up = F.linear(visits[own], self.gate_up[expert]).chunk(2, dim=-1)
                torch.mm(F.silu(gate) * up, self.down[expert].T, out=done[own])
                first += count
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
