"""The main job, done as a tenant does it: over REST and with the official OpenAI client.

base model -> dataset -> fine-tune -> deploy -> evaluate -> promote -> chat -> statement. What a
former run has done is found by its name and not done again.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from demo.data import write_dataset
from demo.rest import Rest, StepFailed
from demo.screen import Screen

MODEL_FOLDER = Path(__file__).parent / "tiny_qwen3" / "model"
BASE_NAME = "tiny-qwen3"
DATASET = "retail-support"
OTHER_DATASET = "logistics-support"
RUN_NAME = "retail-support-sft"
TUNED_NAME = "retail-support"
BASE_DEPLOYMENT = "tiny-qwen3"
TUNED_DEPLOYMENT = "retail-support"
SHOWN = 3  # held-out messages whose answers are printed before and after
MOST_EXACT_FOR_BASE = 0.05
ANSWER_TOKENS = 80
NEVER = {"failed", "cancelled", "deleted"}
HYPERPARAMETERS: dict[str, Any] = {
    "epochs": 1,
    "learning_rate": 2e-3,
    "batch_size": 16,
    "max_length_tokens": 256,
    "warmup_ratio": 0.05,
    "weight_decay": 0.0,
}


@dataclass
class Counted:
    """Tokens that the clients of this demo were told of, to be found again on the statement."""

    path: Path
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def load(cls, path: Path) -> "Counted":
        kept = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, **kept)

    def add(self, *, input_tokens: int, output_tokens: int, requests: int = 1) -> None:
        self.requests += requests
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        kept = {name: getattr(self, name) for name in ("requests", "input_tokens", "output_tokens")}
        self.path.write_text(json.dumps(kept))


@dataclass
class Job:
    """One demonstration. `folder` keeps datasets and counts between runs."""

    base_url: str
    keys: dict[str, str]  # by organization: platform (may operate), retail, logistics
    folder: Path
    screen: Screen
    month: str  # YYYY-MM, of the statement
    is_alive: Callable[[str], None] = lambda step: (
        None
    )  # called while waiting, with the step's name
    hyperparameters: dict[str, Any] = field(default_factory=lambda: dict(HYPERPARAMETERS))
    least_exact: float = 0.90  # of the candidate's answers on the held-out split
    examples: dict[str, int] = field(default_factory=dict)  # by split, if not the full number
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.operator = Rest(base_url=self.base_url, key=self.keys["platform"])
        self.retail = Rest(base_url=self.base_url, key=self.keys["retail"])
        self.logistics = Rest(base_url=self.base_url, key=self.keys["logistics"])
        self.counted = Counted.load(self.folder / "counted.json")

    def run(self) -> dict[str, Any]:
        """All steps in order. Raises StepFailed at the first that does not end as it must."""
        step = self.screen.step
        with step("Hardware: this machine's cores as accelerators of a pool"):
            self.show_hardware()
        with step("Base model: import a tiny Qwen3, hash it, read its facts"):
            base = self.import_base()
        with step("Datasets: check and upload"):
            version = self.upload(self.retail, DATASET, base)
            self.upload(self.logistics, OTHER_DATASET, base)
        with step("Serve the base model, for comparison"):
            self.deploy(BASE_DEPLOYMENT, base["id"])
        with step("Fine-tune on other accelerators than those that serve"):
            run = self.fine_tune(base, version)
        with step("Deploy the result"):
            self.deploy(TUNED_DEPLOYMENT, run["result_revision"])
        with step("Evaluate base and candidate side by side, through the gateway"):
            self.evaluate(version)
        with step("Promote the candidate to champion"):
            self.promote(run["result_revision"])
        with step("Chat: the same messages before and after, by the OpenAI client"):
            self.chat()
        with step("Statement: every token and accelerator-second, priced"):
            self.show_statement()
        with step("Another organization sees none of it"):
            self.show_isolation(run)
        self.report["seconds"] = self.screen.seconds
        return self.report

    def show_hardware(self) -> None:
        self._wait_for_accelerators()
        for row in self.operator.rows("accelerators/"):
            memory = (row["memory_bytes"] or 0) / 2**30
            self.screen.line(
                f"    {row['node']}/{row['device_id']}: {row['type']}, "
                f"cores {row['cores']}, {memory:.1f} GiB, {row['slots']} slots"
            )

    def _wait_for_accelerators(self) -> None:
        deadline = time.monotonic() + 60
        while len(self.operator.rows("accelerators/")) < 2:
            if time.monotonic() > deadline:
                raise StepFailed("No node has registered two accelerators: see the agent's log.")
            self.is_alive("hardware")
            time.sleep(0.5)

    def import_base(self) -> dict[str, Any]:
        model = self.operator.named("models/", BASE_NAME)
        if model is None:
            wanted = self.operator.post(
                "imports/",
                {
                    "name": BASE_NAME,
                    "source_kind": "folder",
                    "source": str(MODEL_FOLDER),
                    "visibility": "shared",
                    "licence": "Apache-2.0",
                },
            )
            self.operator.wait(
                f"imports/{wanted['id']}/", until={"succeeded"}, never=NEVER, seconds=120
            )
            model = self.operator.named("models/", BASE_NAME)
        if model is None:
            raise StepFailed(f"{BASE_NAME} is not in the registry after its import")
        revision: dict[str, Any] = self.retail.rows(f"models/{model['id']}/revisions/")[0]
        self.screen.line(
            f"    {revision['name']}: {revision['architecture']}, "
            f"{revision['parameter_count']:,} parameters, {revision['dtype']}, "
            f"{revision['size_bytes'] / 2**20:.1f} MiB, commit {revision['commit'][:12]}"
        )
        return revision

    def upload(self, rest: Rest, name: str, base: dict[str, Any]) -> dict[str, Any]:
        dataset = rest.named("datasets/", name) or rest.post("datasets/", {"name": name})
        versions = rest.rows(f"datasets/{dataset['id']}/versions/")
        if not versions:
            files = write_dataset(name, self.folder / name, **self.examples)
            versions = [
                rest.upload(
                    f"datasets/{dataset['id']}/versions/",
                    files,
                    {"tokenizer_revision": base["id"]},
                )
            ]
        version: dict[str, Any] = versions[0]
        splits = ", ".join(
            f"{s['name']} {s['examples']:,} examples / {s['token_count']:,} tokens"
            for s in version["splits"]
        )
        self.screen.line(f"    {name}:{version['number']}  {splits}")
        return version

    def fine_tune(self, base: dict[str, Any], version: dict[str, Any]) -> dict[str, Any]:
        run = self.retail.named("training-runs/", RUN_NAME)
        if run is None or run["status"] in NEVER:
            run = self.retail.post(
                "training-runs/",
                {
                    "name": RUN_NAME,
                    "base_revision": base["id"],
                    "dataset_version": version["id"],
                    "output_name": TUNED_NAME,
                    "tuning": "full",
                    "accelerators": 1,
                    "hyperparameters": self.hyperparameters,
                },
            )
        done = self.retail.wait(
            f"training-runs/{run['id']}/",
            until={"succeeded"},
            never=NEVER,
            seconds=600,
            show=self._show_training,
        )
        self.screen.line(
            f"    {done['step']} steps, loss {done['train_loss']:.3f}, "
            f"{done['tokens_total']:,} tokens, on {done['node_name']}"
        )
        self.report["run"] = done["id"]
        return done

    def _show_training(self, run: dict[str, Any]) -> None:
        self.is_alive("training" if run["status"] == "running" else "placing")
        if run["status"] != "running" or not run["tokens_per_second"]:
            self.screen.progress(f"{run['status']} {run['message']}")
            return
        self.screen.progress(
            f"step {run['step']}/{run['total_steps']}  loss {run['train_loss'] or 0:.3f}  "
            f"{run['tokens_per_second']:,.0f} tokens/s  {run['seconds_left'] or 0:.0f} s left"
        )

    def deploy(self, name: str, revision_id: str) -> None:
        deployment = self.retail.named("deployments/", name)
        if deployment is None:
            deployment = self.retail.post(
                "deployments/", {"name": name, "revision": revision_id, "replicas": 1}
            )
        self.retail.wait(
            f"deployments/{deployment['id']}/",
            until={"ready"},
            never=NEVER,
            seconds=180,
            show=lambda row: self.screen.progress(f"{row['status']} {row['message']}"),
            # a status from before a restart says nothing of the engines after it
            holds=lambda row: row["ready_replicas"] >= row["desired_replicas"],
        )
        for replica in self.retail.rows(f"deployments/{deployment['id']}/replicas/"):
            if replica["status"] == "ready":
                held = ", ".join(replica["accelerators"])
                self.screen.line(f"    {name} answers on {replica['node_name']}: {held}")

    def evaluate(self, version: dict[str, Any]) -> None:
        accuracy: dict[str, dict[str, Any]] = {}
        for split in ("heldout", "harder"):
            name = f"{RUN_NAME}-{split}"
            evaluation = self.retail.named("evaluations/", name)
            is_new = evaluation is None or evaluation["status"] in NEVER
            if evaluation is None or is_new:
                evaluation = self.retail.post(
                    "evaluations/",
                    {
                        "name": name,
                        "dataset_version": version["id"],
                        "split": split,
                        "models": [BASE_DEPLOYMENT, TUNED_DEPLOYMENT],
                        "max_tokens": ANSWER_TOKENS,
                    },
                )
            done = self.retail.wait(
                f"evaluations/{evaluation['id']}/",
                until={"succeeded"},
                never=NEVER,
                seconds=600,
                show=self._show_evaluation,
            )
            accuracy[split] = done["results"]
            if is_new:
                self._count_answers(done["id"])
        self._show_accuracy(accuracy)
        self.report["accuracy"] = accuracy
        base = accuracy["heldout"][BASE_DEPLOYMENT]["exact_match"]
        tuned = accuracy["heldout"][TUNED_DEPLOYMENT]["exact_match"]
        if base >= MOST_EXACT_FOR_BASE:
            raise StepFailed(f"The base answers {base:.1%} exactly: it should know next to nothing")
        if tuned < self.least_exact:
            raise StepFailed(f"The candidate answers only {tuned:.1%} exactly")

    def _show_evaluation(self, row: dict[str, Any]) -> None:
        self.is_alive("evaluation")
        self.screen.progress(f"{row['name']}: {row['answers_done']} answers")

    def _count_answers(self, evaluation_id: str) -> None:
        answers = self.retail.rows(f"evaluations/{evaluation_id}/answers/")
        self.counted.add(
            requests=sum(1 for a in answers if not a["error"]),
            input_tokens=sum(a["prompt_tokens"] for a in answers),
            output_tokens=sum(a["completion_tokens"] for a in answers),
        )

    def _show_accuracy(self, accuracy: dict[str, dict[str, Any]]) -> None:
        rows = [["split", "measure", "base", "candidate"]]
        for split, results in accuracy.items():
            base, tuned = results[BASE_DEPLOYMENT], results[TUNED_DEPLOYMENT]
            pairs = [("exact match", base["exact_match"], tuned["exact_match"])]
            pairs += [
                (f"  {name}", base["fields"].get(name, 0.0), value)
                for name, value in tuned["fields"].items()
            ]
            rows += [[split, m, f"{before:.1%}", f"{after:.1%}"] for m, before, after in pairs]
        self.screen.table(rows)

    def promote(self, revision_id: str) -> None:
        model = self.retail.named("models/", TUNED_NAME)
        if model is None:
            raise StepFailed(f"{TUNED_NAME} is not in the registry")
        present = {alias["name"]: alias["revision"] for alias in model["aliases"]}
        if present.get("champion") != revision_id:
            self.retail.put(f"models/{model['id']}/aliases/champion/", {"revision": revision_id})
        graph = self.retail.get(f"revisions/{revision_id}/lineage/")
        labels = {node["key"]: node["label"] for node in graph["nodes"]}
        self.screen.line(f"    {TUNED_NAME}@champion -> {labels[f'revision:{revision_id}']}")
        for before, after in graph["edges"]:
            self.screen.line(f"    {labels[before]} -> {labels[after]}")

    def chat(self) -> None:
        client = openai.OpenAI(base_url=f"{self.base_url}/v1", api_key=self.keys["retail"])
        path = self.folder / DATASET / "heldout.jsonl"
        if not path.exists():
            write_dataset(DATASET, path.parent, **self.examples)
        for line in path.read_text(encoding="utf-8").splitlines()[:SHOWN]:
            messages = json.loads(line)["messages"]
            self.screen.line(f"    customer : {messages[-2]['content']}")
            for label, model in (("before", BASE_DEPLOYMENT), ("after", TUNED_DEPLOYMENT)):
                self.screen.line(f"    {label:<9}: {self._ask(client, model, messages[:-1])}")
            self.screen.line(f"    expected : {messages[-1]['content']}\n")

    def _ask(self, client: openai.OpenAI, model: str, messages: Any) -> str:
        """A streamed answer, counted as the client was told."""
        stream = client.chat.completions.create(
            model=model,
            messages=messages,
            temperature=0,
            max_tokens=ANSWER_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        text = ""
        for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            if chunk.usage is not None:
                self.counted.add(
                    input_tokens=chunk.usage.prompt_tokens,
                    output_tokens=chunk.usage.completion_tokens,
                )
        return " ".join(text.split())

    def show_statement(self) -> None:
        statement = self.retail.get("statement/", month=self.month)
        rows = [["item", "quantity", "unit price", "amount"]]
        for line in statement["lines"]:
            whose = line["model_name"] or line["subject_name"]
            chip = f" on {line['accelerator_type']}" if line["accelerator_type"] else ""
            rows.append(
                [
                    f"{line['item']}: {whose}{chip}",
                    f"{float(line['quantity']):,.1f}",
                    self._money(line["unit_price"]),
                    self._money(line["amount"]),
                ]
            )
        rows.append(["total", "", statement["currency"], self._money(statement["total"])])
        self.screen.table(rows)
        for item in ("requests", "input_tokens", "output_tokens"):
            billed = sum(float(x["quantity"]) for x in statement["lines"] if x["item"] == item)
            counted = getattr(self.counted, item)
            if billed != counted:
                raise StepFailed(f"The statement has {billed:,.0f} {item}, the clients {counted:,}")
        self.screen.line("    The statement's tokens are those that the clients counted.")
        self.report["statement"] = statement

    @staticmethod
    def _money(amount: str | None) -> str:
        return "-" if amount is None else f"{float(amount):.6f}"

    def show_isolation(self, run: dict[str, Any]) -> None:
        client = openai.OpenAI(base_url=f"{self.base_url}/v1", api_key=self.keys["logistics"])
        seen = [model.id for model in client.models.list()]
        runs = self.logistics.rows("training-runs/")
        if seen or runs:
            raise StepFailed(f"logistics sees models {seen} and {len(runs)} runs of retail")
        try:
            client.chat.completions.create(
                model=TUNED_DEPLOYMENT, messages=[{"role": "user", "content": "hello"}]
            )
        except openai.NotFoundError:
            self.screen.line("    logistics: 0 models, 0 runs, and 404 for retail's model")
            return
        raise StepFailed("logistics can call retail's model")
