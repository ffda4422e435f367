"""lm-eval at work, inside `python -m training.benchmarks.program`: no other process imports this."""

import asyncio
import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import datasets
import lm_eval.utils
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.model import CachingLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from tokenizers import Tokenizer

from training import count_tokens
from training.benchmarks.task import metric_name

IN_FLIGHT = 8
SEED = 1234  # of the choice of examples, lm-eval's own
PAUSE_SECONDS = 1.0
TRIES = 3
WAITED_FOR = frozenset({401, 404, 429, 503})
PASSING = frozenset({500, 502, 504})
SHOWN_CHARACTERS = 8000
RESAMPLES = 1000  # for the errors of measures that are no means

Say = Callable[[dict[str, Any]], None]


class CannotRun(Exception):
    """The task or the model is not up to it; the message says why."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.message, self.code = message, code


def run(given: dict[str, Any], say: Say) -> Path:
    """The file with `metrics`, `stderr` (both by flat name) and `samples`. Raises CannotRun."""
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters["regex_replace"] = lm_eval.utils.env.filters["regex_replace"]
    lm_eval.utils.env = sandbox
    rows = {split: list(_read(Path(path))) for split, path in given["data"].items()}
    folder = Path(given["folder"])
    try:
        task = _make_task(given, rows)
        lm = _Chat(given, say) if _by_chat(given) else _Completions(given, say)
        cached = CachingLM(lm, str(folder / "answers.db"))
        name = given["task"]["task"]
        found = evaluate(
            cached,
            {"tasks": {name: task}, "groups": {}},
            limit=given["limit"],
            bootstrap_iters=RESAMPLES,
            apply_chat_template=given["as_chat"],
            fewshot_as_multiturn=given["as_chat"],
        )
    except CannotRun:
        raise
    except TemplateError as error:
        raise CannotRun(f"A template fails: {error}", code="task_failed") from error
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError,
        SyntaxError, NotImplementedError,
    ) as error:  # fmt: skip
        said = f"{type(error).__name__}: {error}"
        raise CannotRun(f"lm-eval cannot run this task: {said}", code="task_failed") from error
    asked = given["task"].get("test_split") or given["task"]["validation_split"]
    lines = [line for line, _ in rows[asked]]
    told = {
        **_figures(name, found["results"][name]),
        "samples": list(_samples(name, found["samples"][name], lines)),
        "completion_tokens": lm.completion_tokens,
    }
    path = folder / "result.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def _by_chat(given: dict[str, Any]) -> bool:
    return bool(given["as_chat"]) and given["task"]["output_type"] == "generate_until"


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield number, json.loads(raw)


def _make_task(given: dict[str, Any], rows: dict[str, Any]) -> ConfigurableTask:
    config = {key: value for key, value in given["task"].items() if key != "data_files"}
    lists = {split: [row for _, row in found] for split, found in rows.items()}

    def load(**_: Any) -> dict[str, datasets.Dataset]:
        return {split: datasets.Dataset.from_list(found) for split, found in lists.items()}

    task = ConfigurableTask(config=config | {"custom_dataset": load})
    shots = given["num_fewshot"]
    if shots is not None or task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=SEED)
    return task


def _figures(name: str, results: dict[str, Any]) -> dict[str, dict[str, float]]:
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in results.items():
        if "," not in key or isinstance(value, str):
            continue
        metric, _, kept = key.partition(",")
        into = errors if metric.endswith("_stderr") else metrics
        into[metric_name(name, f"{metric.removesuffix('_stderr')},{kept}")] = float(value)
    return {"metrics": metrics, "stderr": errors}


def _samples(
    name: str, samples: list[dict[str, Any]], lines: list[int]
) -> Iterator[dict[str, Any]]:
    """A document each, with what every filter makes of its answer."""
    by_doc: dict[int, dict[str, Any]] = {}
    for each in samples:
        doc = each["doc_id"]
        if doc not in by_doc:
            by_doc[doc] = _shown(each) | {"line": lines[doc], "scores": {}}
        for metric in each["metrics"]:
            value = each[metric]
            if isinstance(value, int | float):
                by_doc[doc]["scores"][metric_name(name, f"{metric},{each['filter']}")] = float(
                    value
                )
    yield from by_doc.values()


def _shown(sample: dict[str, Any]) -> dict[str, str]:
    asked = [list(each) for each in sample["arguments"]]
    target, answer = sample["target"], sample["filtered_resps"][0]
    if isinstance(answer, list | tuple) and len(answer) == 2:  # (log-likelihood, is greedy)
        likeliest = max(
            range(len(asked)), key=lambda place: float(sample["filtered_resps"][place][0])
        )
        answer = asked[likeliest][-1]
        if isinstance(target, int) and 0 <= target < len(asked):
            target = asked[target][-1]
    else:
        answer = sample["resps"][0][0]
    prompt = asked[0][0]
    return {
        "prompt": str(getattr(prompt, "prompt", prompt))[-SHOWN_CHARACTERS:],
        "expected": str(target).strip()[:SHOWN_CHARACTERS],
        "answer": str(answer).strip()[:SHOWN_CHARACTERS],
    }


class _Words:
    """A tokenizer as lm-eval's completions know one."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        given = json.loads((folder / "template.json").read_text(encoding="utf-8"))
        self._template, self._context = given["template"], given["context"]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @property
    def prefix(self) -> int | None:
        """What stands before a text with nothing before it."""
        for name in ("bos_token", "eos_token"):
            if (token := self._context.get(name)) is not None:
                found: int | None = self._tokenizer.token_to_id(token)
                return found
        return None

    def render(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        if not self._template:
            raise CannotRun("The model has no chat template.", code="no_template")
        made = count_tokens.environment().from_string(self._template)
        return made.render(messages=messages, add_generation_prompt=prompt, **self._context)


class _Asking:
    """What asks through the gateway, waits, and says how far it is."""

    completion_tokens = 0

    def begin(self, given: dict[str, Any], say: Say) -> None:
        self._say, self._given = say, given
        self._done = self._total = 0
        self._waiting_since: float | None = None
        self._told = 0.0

    async def amodel_call(
        self,
        session: aiohttp.ClientSession,
        sem: asyncio.Semaphore,
        messages: Any,
        *,
        generate: bool = True,
        cache_keys: Any = None,
        ctxlens: Any = None,
        gen_kwargs: Any = None,
        **_: Any,
    ) -> Any:
        payload = self._create_payload(  # type: ignore[attr-defined]
            self.create_message(messages),  # type: ignore[attr-defined]
            generate=generate,
            gen_kwargs=copy.deepcopy(gen_kwargs) or {},
            seed=SEED,
        )
        if not payload.get("stop"):
            payload.pop("stop", None)
        async with sem:
            body = await self._post(session, payload)
        if generate:
            answers = [each or "" for each in self.parse_generations(outputs=body)]  # type: ignore[attr-defined]
        else:
            answers = self.parse_logprobs(outputs=body, tokens=messages, ctxlens=ctxlens)  # type: ignore[attr-defined]
        for key, answer in zip(cache_keys or (), answers, strict=False):
            if key is not None:
                kind = "generate_until" if generate else "loglikelihood"
                self.cache_hook.add_partial(kind, key, answer)  # type: ignore[attr-defined]
        self._count(len(answers), body)
        return answers

    async def get_batched_requests(self, requests: list[Any], *more: Any, **options: Any) -> Any:
        self._total += len(requests)
        try:
            return await super().get_batched_requests(requests, *more, **options)  # type: ignore[misc]
        finally:
            self._say({"done": self._done, "total": self._total})

    async def _post(self, session: aiohttp.ClientSession, payload: dict[str, Any]) -> Any:
        failures = 0
        while True:
            try:
                async with session.post(
                    self.base_url,  # type: ignore[attr-defined]
                    json=payload,
                    headers={"Authorization": f"Bearer {self._given['secret']}"},
                ) as response:
                    status, body = response.status, await response.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                status, body = 502, {"error": {"message": f"{type(error).__name__}: {error}"}}
            if status == 200:
                self._answered()
                return body
            message = _message(body)
            if status in WAITED_FOR:
                self._wait(status, message)
            else:
                failures += 1
                if status not in PASSING or failures >= TRIES:
                    raise CannotRun(f"{status}: {message}", code="model_refused")
            await asyncio.sleep(PAUSE_SECONDS)

    def _wait(self, status: int, message: str) -> None:
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        self._say({"waits": {"status": status, "message": message}})
        seconds = self._given["route_seconds" if status == 404 else "model_seconds"]
        if now - self._waiting_since > seconds:
            code = "model_not_found" if status == 404 else "model_not_ready"
            raise CannotRun(message, code=code)

    def _answered(self) -> None:
        if self._waiting_since is not None:
            self._waiting_since = None
            self._say({"waits": {}})

    def _count(self, requests: int, body: dict[str, Any]) -> None:
        self._done += requests
        self.completion_tokens += int((body.get("usage") or {}).get("completion_tokens") or 0)
        if time.monotonic() - self._told > 0.5:
            self._told = time.monotonic()
            self._say({"done": self._done, "total": self._total})


class _Completions(_Asking, LocalCompletionsAPI):  # type: ignore[misc]
    """`local-completions`: prompts as token ids where their likelihood is wanted, else as text."""

    def __init__(self, given: dict[str, Any], say: Say) -> None:
        LocalCompletionsAPI.__init__(
            self,
            model=given["model"],
            base_url=f"{given['base_url']}/v1/completions",
            tokenizer_backend=None,
            num_concurrent=IN_FLIGHT,
            max_retries=1,
            max_length=given["max_length"],
        )
        self.begin(given, say)
        self._words = _Words(Path(given["tokenizer"])) if given["tokenizer"] else None
        if self._words is not None:
            self.tokenizer, self.tokenizer_backend = self._words, "own"
            self.tokenized_requests = given["task"]["output_type"] != "generate_until"

    def tok_encode(self, string: Any, left_truncate_len: int | None = None, **_: Any) -> Any:
        if self._words is None:
            return [string]
        if not isinstance(string, str):
            return [self.tok_encode(each, left_truncate_len) for each in string]
        ids = self._words.encode(string)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    @property
    def eot_token_id(self) -> int | None:
        return self.prefix_token_id

    @property
    def prefix_token_id(self) -> int | None:
        if self._words is None or self._words.prefix is None:
            raise CannotRun(
                "The model names no token that a text begins with; give every prompt a text.",
                code="no_prefix",
            )
        return self._words.prefix

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        assert self._words is not None  # noqa: S101 - given wherever likelihoods are asked
        return self._words.render(chat_history, prompt=add_generation_prompt)


class _Chat(_Asking, LocalChatCompletion):  # type: ignore[misc]
    """`local-chat-completions`: the model's own template is applied where it is served."""

    def __init__(self, given: dict[str, Any], say: Say) -> None:
        LocalChatCompletion.__init__(
            self,
            model=given["model"],
            base_url=f"{given['base_url']}/v1/chat/completions",
            num_concurrent=IN_FLIGHT,
            max_retries=1,
            max_length=given["max_length"],
        )
        self.begin(given, say)


def _message(body: Any) -> str:
    try:
        return str(body["error"]["message"])[:500]
    except (TypeError, LookupError):
        return str(body)[:500]
