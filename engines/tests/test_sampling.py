from collections import Counter

import pytest
import torch

from engines.builtin.sampling import CANDIDATES, Sampler, _largest, choose
from engines.protocol.requests import Sampling


def sampler(*, prompt=(), choice=0, ends=(), constraint=None, **rules):
    return Sampler(
        Sampling(**rules), prompt=prompt, choice=choice, ends=ends, constraint=constraint
    )


def row(*probabilities):
    return torch.tensor([probabilities]).log()


def drawn(logits, own, times=400):
    """How often each token came up."""
    return Counter(choose(logits.clone(), [own])[0].token for _ in range(times))


def test_draws_follow_the_probabilities():
    counts = drawn(row(0.5, 0.3, 0.2), sampler(seed=1), times=4000)
    assert [counts[token] / 4000 for token in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


@pytest.mark.parametrize("rules", [{"top_k": 4}, {"top_p": 0.95}, {"min_p": 0.1}])
def test_draws_among_the_likeliest_follow_the_probabilities(rules):
    counts = drawn(row(0.01, 0.5, 0.01, 0.3, 0.18)[:, :5], sampler(seed=2, **rules), times=4000)
    assert [counts[token] / 4000 for token in (1, 3, 4)] == pytest.approx(
        [0.5, 0.3, 0.18], abs=0.03
    )


@pytest.mark.parametrize("rules", [{"top_k": 200}, {"top_p": 0.9}, {"min_p": 0.02}, {}])
def test_rounding_that_changes_places_changes_no_draw(rules):
    """Logits in equal pairs, each pair's order turned by less than rounding would."""
    logits = torch.linspace(0, 3, 256).repeat_interleave(2)[None]
    tilt = torch.tensor([1e-6, -1e-6]).repeat(256)
    one, other = sampler(seed=4, **rules), sampler(seed=4, **rules)
    for _ in range(300):
        [first] = choose(logits + tilt, [one])
        assert choose(logits - tilt, [other]) == [first]


def test_a_draw_may_be_repeated_until_it_is_seen():
    own = sampler(seed=6)
    numbers = [own.draw(), own.draw()]
    own.saw(1)
    numbers.append(own.draw())
    assert numbers[0] == numbers[1] != numbers[2]


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
    flat = torch.zeros(1, CANDIDATES[-1] * 4)
    tokens = drawn(flat, sampler(seed=5, top_p=0.99), times=40)
    assert len(tokens) > 30  # hardly one twice
    assert max(tokens) > CANDIDATES[-1] * 2


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


def test_the_type_of_logits_does_not_matter_to_the_best_token():
    torch.manual_seed(1)
    logits = torch.randn(6, 3000).bfloat16()
    own = [sampler(temperature=0.0), sampler(temperature=0.0, logprobs=2)] * 3
    expected = logits.float().max(dim=-1).indices.tolist()
    assert [chosen.token for chosen in choose(logits.clone(), own)] == expected
    plain = [sampler(temperature=0.0)] * 6
    assert [chosen.token for chosen in choose(logits.clone(), plain)] == expected


@pytest.mark.parametrize("width", [128 * 20, 128 * 20 + 1])
def test_draws_from_whole_rows_follow_the_probabilities(width):
    logits = torch.full((1, width), -1e9)
    likely = {5: 0.5, 130: 0.3, width - 1: 0.2}
    for token, probability in likely.items():
        logits[0, token] = torch.tensor(probability).log()
    counts = drawn(logits, sampler(seed=1), times=4000)
    assert set(counts) == set(likely)
    for token, probability in likely.items():
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize("count", [1, 7, 20])
def test_the_largest_are_found_among_blocks(count):
    torch.manual_seed(2)
    values = torch.randn(3, 64 * 500)
    found, ids = _largest(values, count)
    expected = values.topk(count)
    assert torch.equal(found, expected.values)
    assert torch.equal(ids, expected.indices)


def test_nothing_ends_an_answer_before_its_least_length():
    own = sampler(temperature=0.0, min_tokens=2, ends=(0,))
    tokens = [choose(torch.tensor([[3.0, 1.0, 2.0]]), [own])[0].token for _ in range(4)]
    assert tokens == [2, 2, 0, 0]


class Only:
    """A constraint that allows two tokens."""

    def __init__(self, *allowed):
        self.allowed, self.taken = allowed, []

    def fill(self, words):
        for token in self.allowed:
            words[token // 32] |= 1 << (token % 32)

    def take(self, token):
        self.taken.append(token)


def test_a_mask_limits_its_row_and_no_other():
    torch.manual_seed(3)
    logits = torch.randn(3, 1000)
    only = Only(7, 903)
    own = [sampler(seed=1), sampler(seed=2, constraint=only), sampler(temperature=0.0)]
    free = [sampler(seed=1), sampler(seed=2), sampler(temperature=0.0)]
    for _ in range(20):
        masked = [chosen.token for chosen in choose(logits.clone(), own)]
        alone = [chosen.token for chosen in choose(logits.clone(), free)]
        assert (masked[0], masked[2]) == (alone[0], alone[2])
    assert len(only.taken) == 20
    assert set(only.taken) == {7, 903}


def test_penalties_of_many_rows_at_once():
    kinds: list[dict] = [
        {"presence_penalty": 0.5},
        {},
        {"repetition_penalty": 1.5, "prompt": [3, 4]},
        {"frequency_penalty": 0.7, "logit_bias": {2: 1.5}},
    ]
    torch.manual_seed(4)
    steps = [torch.randn(4, 50) for _ in range(30)]
    together = [sampler(temperature=0.0, **each) for each in kinds]
    alone = [sampler(temperature=0.0, **each) for each in kinds]
    for logits in steps:
        expected = [choose(logits[[at]].clone(), [alone[at]])[0].token for at in range(4)]
        assert [chosen.token for chosen in choose(logits.clone(), together)] == expected
