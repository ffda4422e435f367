"""The tiny model's own byte-level BPE: Qwen's splitting rules (digits one by one), few entries."""

import itertools
from collections.abc import Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from demo.tiny_qwen3.corpus import conversations
from demo.tiny_qwen3.words import COMMON_WORDS, FIELD_NAMES, NAMES, THINGS, TOWNS

VOCABULARY = 5120
CONVERSATIONS = 20_000
END_OF_TEXT, START, END = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# The pieces a text falls into before merging, as Qwen2 defines them: contractions, words with the
# space or mark before them, single digits, runs of marks, line ends, spaces.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(*, seed: int, max_length: int) -> Any:
    """A Qwen2Tokenizer with merges learned from the pretraining conversations of the seed."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts(seed), trainer)
    return Qwen2Tokenizer(
        tokenizer_object=bpe,
        unk_token=None,
        bos_token=None,
        pad_token=END_OF_TEXT,
        eos_token=END,
        extra_special_tokens=[START, END],
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def texts(seed: int) -> Iterator[str]:
    """What the merges are learned from: conversations, and everyday words often enough to stay
    whole in a sentence, in JSON and in a template."""
    for messages in itertools.islice(conversations(seed), CONVERSATIONS):
        yield from (message["content"] for message in messages)
    sentence = " " + " ".join([*COMMON_WORDS, *TOWNS, *NAMES, *THINGS])
    alone = "\n".join(["system", "user", "assistant", *COMMON_WORDS, *TOWNS, *NAMES, *FIELD_NAMES])
    yield from [sentence] * 200
    yield from [alone] * 100
