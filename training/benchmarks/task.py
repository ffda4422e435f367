"""A task's YAML, read strictly: what it may say is listed here, all else is refused by its key.

lm-eval runs whatever a task brings: Python functions, files that it includes, datasets and metrics
that it fetches. Of that nothing gets through; what remains is templates (which the program renders
in a sandbox), names from fixed lists, and plain values.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import yaml

from common.errors import InvalidInput

MAX_BYTES = 65_536
MAX_TEXT = 20_000
MAX_TOKENS = 32_768
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(jsonl|json)")
SPLIT = re.compile(r"[a-z][a-z0-9_-]{0,39}")
FIELD = "task"

# By how lm-eval asks, the measures that it takes from the answers; those of LOWER are better low.
METRICS: dict[str, tuple[str, ...]] = {
    "multiple_choice": (
        "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1", "mcc", "brier_score",
    ),
    "loglikelihood": ("acc", "perplexity"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match", "bleu", "chrf", "ter"),
}  # fmt: skip
LOWER = frozenset(
    {"brier_score", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter"}
)
AGGREGATIONS = (
    "mean", "nanmean", "median", "perplexity", "weighted_perplexity", "bits_per_byte", "f1",
    "matthews_corrcoef", "bleu", "chrf", "ter", "brier_score",
)  # fmt: skip
OPTIONS = {  # of a measure's entry, beside its name
    "exact_match": ("ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore"),
}
FILTERS: dict[str, tuple[str, ...]] = {
    "regex": ("regex_pattern", "group_select", "fallback"),
    "multi_choice_regex": (
        "regex_pattern", "group_select", "fallback", "ignore_case", "ignore_punctuation",
    ),
    "remove_whitespace": (),
    "lowercase": (),
    "uppercase": (),
    "take_first": (),
    "take_first_k": ("k",),
    "majority_vote": (),
    "map": ("mapping_dict", "default_value"),
}  # fmt: skip
GENERATION = ("until", "max_gen_toks", "temperature", "do_sample", "top_p", "top_k")
REFUSED = {  # keys of lm-eval that people will bring, and what to do instead
    "include": "Write everything into this one file.",
    "group": "Upload one task a file.",
    "class": "Tasks in Python are not run here; describe it in YAML.",
    "custom_dataset": "Upload the documents as JSON lines and name them in dataset_kwargs.data_files.",
    "dataset_name": "Leave it out: the documents are the files that you upload.",
    "process_docs": "Write the documents as they should be, or use a template.",
    "process_results": "Use the measures of metric_list and the filters of filter_list.",
    "use_prompt": "Write the prompt into doc_to_text.",
    "doc_to_image": "Only text is asked here.",
    "doc_to_audio": "Only text is asked here.",
    "unsafe_code": "No code of models or of tasks is run here; leave it out.",
    "should_decontaminate": "Leave it out: the check of datasets looks for leakage.",
    "doc_to_decontamination_query": "Leave it out: the check of datasets looks for leakage.",
}


class _Loader(yaml.SafeLoader):
    """No tags, no aliases, no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _refusal("", "It refers to an anchor.", "Write the value out.")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            tag = str(event.tag)
            remedy = "Nothing of a task is run as Python; use a template or plain values."
            raise _refusal("", f"It has the tag {tag!r}.", remedy)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _refusal("", f"The key {name!r} is no text.", "Put it in quotes.")
            if name in seen:
                raise _refusal(name, "It is there twice.", "Leave one of them.")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def read_task(raw: bytes) -> dict[str, Any]:
    """A task's settings as lm-eval takes them, `data_files` by split beside them in place of
    `dataset_kwargs`. Raises InvalidInput with the key at fault, as in `task.filter_list.0`."""
    values = _parse(raw)
    for key in values:
        if key not in KEYS:
            remedy = REFUSED.get(key, f"Known are {', '.join(sorted(KEYS))}.")
            raise _refusal(key, "This is not taken.", remedy)
    read = {
        key: check(value, key)
        for key, (check, _) in KEYS.items()
        if (value := values.get(key)) is not None
    }
    for key, (_, is_required) in KEYS.items():
        if is_required and key not in read:
            raise _refusal(key, "It is missing.", "Write it into the file.")
    read["data_files"] = read.pop("dataset_kwargs")
    read.pop("dataset_path", None)
    _check_splits(read)
    _check_way(read)
    return read


def evaluated_split(task: Mapping[str, Any]) -> str:
    """The split whose documents are asked."""
    return str(task.get("test_split") or task["validation_split"])


def metric_name(task_name: str, key: str) -> str:
    """`acc,none` of lm-eval as a flat name: `lm.<task>.acc`; another filter's goes at the end."""
    metric, _, kept = key.partition(",")
    return f"lm.{task_name}.{metric}" + (f".{kept}" if kept not in ("", "none") else "")


def _parse(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_BYTES:
        raise _refusal("", f"It has more than {MAX_BYTES:,} bytes.", "Put documents into files.")
    try:
        values = yaml.load(raw.decode(), Loader=_Loader)  # noqa: S506 - a stricter SafeLoader
    except UnicodeDecodeError:
        raise _refusal("", "It is not UTF-8.", "Save it as UTF-8.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise _refusal("", f"It is not YAML: {text}", "Mend it.") from None
    if not isinstance(values, dict):
        raise _refusal("", "It is no mapping of keys.", "Begin with `task: name`.")
    return values


def _check_splits(task: dict[str, Any]) -> None:
    if not task.get("test_split") and not task.get("validation_split"):
        raise _refusal("test_split", "It is missing.", "Name the split whose documents are asked.")
    for key in ("test_split", "validation_split", "training_split", "fewshot_split"):
        if (split := task.get(key)) and split not in task["data_files"]:
            raise _refusal(
                key,
                f"There is no split {split!r}.",
                f"dataset_kwargs.data_files has {', '.join(task['data_files'])}.",
            )
    if task.get("num_fewshot") and not (task.get("fewshot_split") or task.get("training_split")):
        raise _refusal(
            "fewshot_split",
            "Examples are asked for and come from nowhere.",
            "Name the split that they come from.",
        )


def _check_way(task: dict[str, Any]) -> None:
    """What fits the way of asking."""
    way = task.setdefault("output_type", "generate_until")
    if way == "multiple_choice" and "doc_to_choice" not in task:
        raise _refusal("doc_to_choice", "It is missing.", "Say which answers there are.")
    if way != "generate_until" and "generation_kwargs" in task:
        raise _refusal("generation_kwargs", f"A task of {way} writes nothing.", "Leave it out.")
    for index, each in enumerate(task.get("metric_list", ())):
        if each["metric"] not in METRICS[way]:
            raise _refusal(
                f"metric_list.{index}.metric",
                f"A task of {way} has no measure {each['metric']!r}.",
                f"Use one of {', '.join(METRICS[way])}.",
            )


def _refusal(key: str, message: str, remedy: str) -> InvalidInput:
    return InvalidInput(message, field=f"{FIELD}.{key}" if key else FIELD, remedy=remedy)


# Of one value each: (value, key) -> what is kept. Raises InvalidInput.


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise _refusal(key, f"This is no text of up to {MAX_TEXT:,} characters.", "Mend it.")
    return value


def _template(value: Any, key: str) -> Any:
    """A column's name, a template, or the index of a choice."""
    if type(value) is int and 0 <= value < 1000:
        return value
    return _text(value, key)


def _choices(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [
            _text(str(each) if type(each) is int else each, f"{key}.{index}")
            for index, each in enumerate(value)
        ]
    return _text(value, key)


def _name(value: Any, key: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise _refusal(key, "This cannot be a task's name.", "Use up to 60 of a-z, 0-9, _ and -.")
    return value


def _split(value: Any, key: str) -> str:
    if not isinstance(value, str) or not SPLIT.fullmatch(value):
        raise _refusal(key, "This cannot be a split's name.", "Use a-z, 0-9, _ and -.")
    return value


def _one_of(*allowed: str) -> Callable[[Any, str], str]:
    def check(value: Any, key: str) -> str:
        if value not in allowed:
            raise _refusal(key, "It is none that is known.", f"Use one of {', '.join(allowed)}.")
        return str(value)

    return check


def _whole(low: int, high: int) -> Callable[[Any, str], int]:
    def check(value: Any, key: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _refusal(key, "It is out of range.", f"Give {low} to {high}.")
        return value

    return check


def _data_files(value: Any, key: str) -> dict[str, str]:
    files = value.get("data_files") if isinstance(value, dict) else None
    if not isinstance(files, dict) or len(value) != 1 or not files:
        raise _refusal(key, "It names no files.", "Give {data_files: {test: FILE.jsonl}}.")
    for split, name in files.items():
        _split(split, f"{key}.data_files")
        if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
            raise _refusal(
                f"{key}.data_files.{split}",
                "This is no file of JSON lines beside the task.",
                "Upload the file and give its plain name, such as test.jsonl.",
            )
    return {str(split): str(name) for split, name in files.items()}


def _metrics(value: Any, key: str) -> list[dict[str, Any]]:
    found = []
    for index, each in enumerate(_entries(value, key)):
        path = f"{key}.{index}"
        metric = each.get("metric")
        if not isinstance(metric, str):
            raise _refusal(f"{path}.metric", "It is missing.", "Name a measure.")
        known = ("metric", "aggregation", "higher_is_better", *OPTIONS.get(metric, ()))
        _check_keys(each, known, path)
        if "aggregation" in each:
            _one_of(*AGGREGATIONS)(each["aggregation"], f"{path}.aggregation")
        higher = each.get("higher_is_better")
        if higher is not None and higher is not (metric not in LOWER):
            raise _refusal(
                f"{path}.higher_is_better",
                f"{metric} is better {'low' if metric in LOWER else 'high'}.",
                "Leave it out.",
            )
        found.append({name: _plain(one, f"{path}.{name}") for name, one in each.items()})
    return found


def _filters(value: Any, key: str) -> list[dict[str, Any]]:
    found = []
    for index, each in enumerate(_entries(value, key)):
        path = f"{key}.{index}"
        _check_keys(each, ("name", "filter"), path)
        name = _name(each.get("name"), f"{path}.name")
        steps = []
        for place, step in enumerate(_entries(each.get("filter"), f"{path}.filter")):
            at = f"{path}.filter.{place}"
            function = _one_of(*FILTERS)(step.get("function"), f"{at}.function")
            _check_keys(step, ("function", *FILTERS[function]), at)
            if "regex_pattern" in step:
                _pattern(step["regex_pattern"], f"{at}.regex_pattern")
            steps.append({word: _plain(one, f"{at}.{word}") for word, one in step.items()})
        found.append({"name": name, "filter": steps})
    return found


def _pattern(value: Any, key: str) -> None:
    try:
        re.compile(_text(value, key))
    except re.error as error:
        raise _refusal(key, f"It cannot be read: {error}.", "Mend it.") from None


def _generation(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refusal(key, "This is no mapping.", "Give {until: [...], max_gen_toks: 64}.")
    _check_keys(value, GENERATION, key)
    if "max_gen_toks" in value:
        _whole(1, MAX_TOKENS)(value["max_gen_toks"], f"{key}.max_gen_toks")
    return {word: _plain(one, f"{key}.{word}") for word, one in value.items()}


def _fewshot(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refusal(key, "This is no mapping.", "Give {sampler: first_n}.")
    _check_keys(value, ("sampler", "split"), key)
    if "split" in value:
        _split(value["split"], f"{key}.split")
    sampler = _one_of("default", "first_n")(value.get("sampler", "default"), f"{key}.sampler")
    return value | {"sampler": sampler}


def _remarks(value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise _refusal(key, "This is no mapping.", "Give {version: 1.0}.")
    return {word: _plain(one, f"{key}.{word}") for word, one in value.items()}


def _tags(value: Any, key: str) -> Any:
    return [_text(each, key) for each in value] if isinstance(value, list) else _text(value, key)


def _entries(value: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= 32:
        raise _refusal(key, "This is no list of 1 to 32 entries.", "Give a list of mappings.")
    for index, each in enumerate(value):
        if not isinstance(each, dict):
            raise _refusal(f"{key}.{index}", "This is no mapping.", "Give {name: value, ...}.")
    return value


def _check_keys(value: Mapping[str, Any], known: Collection[str], path: str) -> None:
    for key in value:
        if key not in known:
            raise _refusal(f"{path}.{key}", "This is not taken.", f"Known are {', '.join(known)}.")


def _plain(value: Any, key: str, depth: int = 0) -> Any:
    """Texts, numbers and truths, and lists and mappings of them."""
    if isinstance(value, str):
        return _text(value, key)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list) and depth < 3 and len(value) <= 100:
        return [_plain(each, key, depth + 1) for each in value]
    if isinstance(value, dict) and depth < 3 and len(value) <= 1000:
        return {word: _plain(each, key, depth + 1) for word, each in value.items()}
    raise _refusal(key, "This is no plain value.", "Give texts and numbers, and lists of them.")


# What a task may say: how each is checked, and whether it must be there.
KEYS: dict[str, tuple[Callable[[Any, str], Any], bool]] = {
    "task": (_name, True),
    "task_alias": (_text, False),
    "tag": (_tags, False),
    "dataset_path": (_one_of("json"), False),
    "dataset_kwargs": (_data_files, True),
    "test_split": (_split, False),
    "validation_split": (_split, False),
    "training_split": (_split, False),
    "fewshot_split": (_split, False),
    "output_type": (_one_of(*METRICS), False),
    "doc_to_text": (_template, True),
    "doc_to_target": (_template, True),
    "doc_to_choice": (_choices, False),
    "description": (_text, False),
    "target_delimiter": (_text, False),
    "fewshot_delimiter": (_text, False),
    "fewshot_config": (_fewshot, False),
    "num_fewshot": (_whole(0, 100), False),
    "gen_prefix": (_text, False),
    "generation_kwargs": (_generation, False),
    "repeats": (_whole(1, 64), False),
    "metric_list": (_metrics, False),
    "filter_list": (_filters, False),
    "metadata": (_remarks, False),
}
