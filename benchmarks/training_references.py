"""One run of a trainer that ours is compared with: `python training_references.py SETTINGS.json`.

Runs in whichever environment has the trainer, so it imports nothing of the platform. The tokens and
labels come ready made; what is told, beside the settings file: when each step ended, how many
tokens (padding apart) went through the model until then, and each step's loss.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    settings = json.loads(Path(sys.argv[1]).read_text())
    import torch

    torch.set_num_threads(settings["threads"])
    runs = {"bare": run_bare, "trl": run_trl, "trl_bfloat16": run_trl, "llama_factory": run_lf}
    took = runs[settings["name"]](settings)
    (Path(settings["folder"]) / "took.json").write_text(json.dumps(took))
    return 0


def run_trl(settings: dict[str, Any]) -> dict[str, Any]:
    """SFTTrainer with LoRA as it comes: float32 weights, bfloat16 autocast, gradient checkpointing.

    `trl_bfloat16` is what somebody would make of it who looks for speed: weights in bfloat16 and
    activations kept.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    sped_up: dict[str, Any] = {}
    if settings["name"] == "trl_bfloat16":
        sped_up = {
            "bf16": False,
            "gradient_checkpointing": False,
            "model_init_kwargs": {"dtype": "bfloat16"},
        }
    config = SFTConfig(
        output_dir=settings["folder"],
        num_train_epochs=1,
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        max_length=settings["max_length_tokens"],
        seed=settings["seed"],
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        **sped_up,
    )
    clock: Any = make_clock()
    SFTTrainer(
        model=settings["base"],
        args=config,
        train_dataset=Dataset.from_list(read_rows(settings)),
        processing_class=AutoTokenizer.from_pretrained(settings["base"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **adapter()),
        callbacks=[clock],
    ).train()
    told: dict[str, Any] = clock.told()
    return told


def run_lf(settings: dict[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory's own entry point on a tokenized data set."""
    from datasets import Dataset, DatasetDict
    from llamafactory.train.tuner import run_exp

    folder = Path(settings["folder"])
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in read_rows(settings)]
    tokenized = folder / "tokenized"
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(tokenized))
    clock: Any = make_clock()
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": settings["base"],
            "template": "qwen",
            "dataset": "none",  # asked for, and then not looked at: the tokens are ready
            "tokenized_path": str(tokenized),
            "finetuning_type": "lora",
            "lora_target": "all",
            "lora_rank": adapter()["r"],
            "lora_alpha": adapter()["lora_alpha"],
            "cutoff_len": settings["max_length_tokens"],
            "bf16": True,
            "use_cpu": True,
            "per_device_train_batch_size": settings["batch_size"],
            "gradient_accumulation_steps": 1,
            "learning_rate": settings["learning_rate"],
            "lr_scheduler_type": "constant",
            "num_train_epochs": 1,
            "output_dir": str(folder / "output"),
            "overwrite_output_dir": True,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "disable_tqdm": True,
            "seed": settings["seed"],
        },
        callbacks=[clock],
    )
    told: dict[str, Any] = clock.told()
    return told


def run_bare(settings: dict[str, Any]) -> dict[str, Any]:
    """PEFT on a transformers model in bfloat16 and nothing else: what a careful script does."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(settings["seed"])
    model = AutoModelForCausalLM.from_pretrained(settings["base"], dtype=torch.bfloat16)
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **adapter())
    )
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0.0)
    rows, size = read_rows(settings), settings["batch_size"]
    ends, tokens, losses = [time.monotonic()], [0], []
    for at in range(0, len(rows), size):
        batch = rows[at : at + size]
        ids = padded([row["input_ids"] for row in batch], 0)
        loss = model(
            input_ids=ids,
            attention_mask=padded([[1] * len(row["input_ids"]) for row in batch], 0),
            labels=padded([row["labels"] for row in batch], -100),
            use_cache=False,
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        ends.append(time.monotonic())
        tokens.append(tokens[-1] + sum(len(row["input_ids"]) for row in batch))
    return {"ends": ends, "tokens": tokens, "losses": losses}


def adapter() -> dict[str, Any]:
    return {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}


def read_rows(settings: dict[str, Any]) -> list[dict[str, list[int]]]:
    lines = Path(settings["tokens"]).read_text().splitlines()
    return [json.loads(line) for line in lines]


def padded(rows: list[list[int]], value: int) -> Any:
    import torch

    parts = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)


def make_clock() -> Any:
    """A callback of transformers' Trainer that counts what reaches the model."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc] # the library is Any to mypy
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.tokens: list[int] = []
            self.losses: list[float] = []
            self.seen = 0
            self.counting = True  # one micro-batch a step

        def on_train_begin(self, args, state, control, model=None, **rest):
            embedding = model.get_input_embeddings()

            def count(module, inputs):
                if not self.counting:
                    return
                self.counting = False
                self.seen += int((inputs[0] != PADDING).sum())

            embedding.register_forward_pre_hook(count)
            self.ends, self.tokens = [time.monotonic()], [0]

        def on_step_end(self, args, state, control, **rest):
            self.counting = True
            self.ends.append(time.monotonic())
            self.tokens.append(self.seen)

        def on_log(self, args, state, control, logs=None, **rest):
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

        def told(self) -> dict[str, Any]:
            return {"ends": self.ends, "tokens": self.tokens, "losses": self.losses}

    return Clock()


PADDING = 0  # the base's pad token, which no row of the data holds


if __name__ == "__main__":
    sys.exit(main())
