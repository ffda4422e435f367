from collections import Counter

import pytest
import torch

from engines.builtin.sampling import CANDIDATES, Sampler, choose
from engines.protocol.requests import Sampling


def sampler(*, prompt=(), choice=0, **rules):
    return Sampler(Sampling(**rules), prompt=prompt, choice=choice)


def row(*probabilities):
    return torch.tensor([probabilities]).log()


def drawn(logits, own, times=400):
    """How often each token came up."""
    return Counter(choose(logits.clone(), [own])[0].token for _ in range(times))


def test_draws_follow_the_probabilities():
    counts = drawn(row(0.5, 0.3, 0.2), sampler(seed=1), times=4000)
    assert [counts[token] / 4000 for token in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_temperature_sharpens():
    counts = drawn(row(0.6, 0.4), sampler(seed=1, temperature=0.1))
    assert counts[0] > 385  # (0.6 / 0.4) ** 10 is 58 to 1


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.75}, {0, 1}),  # 0.5 alone is not enough, with 0.3 it is
        ({"top_p": 0.45}, {0}),
        ({"min_p": 0.5}, {0, 1}),  # 0.3 is at least half of 0.5
        ({"top_k": 3, "top_p": 0.6}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_p": 1e-9}, {0}),
        ({"top_k": 50, "top_p": 0.999}, {0, 1, 2, 3}),
    ],
)
def test_what_survives_each_limit(rules, allowed):
    logits = row(0.15, 0.05, 0.5, 0.3)[:, [2, 3, 0, 1]]
    assert set(drawn(logits, sampler(seed=3, **rules))) == allowed


def test_top_p_looks_past_its_first_candidates():
    flat = torch.zeros(1, CANDIDATES * 4)
    tokens = drawn(flat, sampler(seed=5, top_p=0.99))
    assert len(tokens) > 300  # of 400: hardly one twice
    assert max(tokens) > CANDIDATES * 2


def test_a_row_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    logits = torch.randn(4, 3000) * 2
    kinds = [{"top_p": 0.9}, {"top_k": 2000, "top_p": 0.99}, {}, {"temperature": 0.0}]

    def draw(rows):
        own = [sampler(seed=9, **kinds[index]) for index in rows]
        return [[chosen.token for chosen in choose(logits[rows].clone(), own)] for _ in range(20)]

    together = draw([0, 1, 2, 3])
    for index in range(4):
        assert [each[0] for each in draw([index])] == [each[index] for each in together]


def test_penalties_count_what_was_written():
    own = sampler(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25)
    logits = torch.tensor([[1.0, 0.9, 0.3]])
    tokens = [choose(logits.clone(), [own])[0].token for _ in range(4)]
    # 1.0 -> 0.25 after one, 0.9 -> 0.15 after one: then 0.3 leads, then 0.25 again
    assert tokens == [0, 1, 2, 0]


def test_the_repetition_penalty_counts_the_prompt_too():
    own = sampler(temperature=0.0, repetition_penalty=2.0, prompt=[0])
    assert choose(torch.tensor([[1.0, 0.6, -0.1]]), [own])[0].token == 1
    assert choose(torch.tensor([[1.0, 0.6, -0.1]]), [own])[0].token == 0  # 0.5 against 0.3


def test_logprobs_are_of_the_model_not_of_the_rules():
    own = sampler(temperature=0.0, logit_bias={1: 100.0}, logprobs=2)
    [chosen] = choose(row(0.75, 0.25), [own])
    assert chosen.token == 1
    assert chosen.logprob == pytest.approx(torch.tensor(0.25).log())
    assert [token for token, _ in chosen.alternatives] == [0, 1]
