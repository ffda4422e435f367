"""Every string of the pages is translated, and the compiled catalogue is the written one."""

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import translation
from django.utils.translation.template import templatize

FOLDER = Path(settings.BASE_DIR) / "locale" / "zh_Hans" / "LC_MESSAGES"
APPS = [
    "accounts", "chips", "common", "console", "deployments", "factory", "models_registry",
    "openai_api", "training", "usage",
]  # fmt: skip
CALLS = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "Text"}
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
IN_TEMPLATE = re.compile(r"""(?:gettext|_)\(u?(['"])((?:(?!\1)[^\\]|\\.)*)\1""")
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|\{\w+\}")


def written() -> dict[str, str]:
    """msgid -> msgstr of the .po; of a plural, the first form."""
    found: dict[str, str] = {}
    for block in (FOLDER / "django.po").read_text(encoding="utf-8").split("\n\n"):
        parts: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("msg"):
                name = line.split(" ", 1)[0]
            if not line.startswith("#") and name:
                text = "".join(QUOTED.findall(line))
                parts[name] = parts.get(name, "") + ast.literal_eval(f'"{text}"')
        if "msgid" in parts:
            found[parts["msgid"]] = parts.get("msgstr", parts.get("msgstr[0]", ""))
    return found


def python_strings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            first = node.args[0]
            if name in CALLS and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def template_strings(source: str) -> Iterator[str]:
    for _quote, text in IN_TEMPLATE.findall(templatize(source)):
        yield ast.literal_eval(f'"""{text}"""')


def used() -> set[str]:
    root = Path(settings.BASE_DIR)
    strings: set[str] = set()
    for app in APPS:
        for path in (root / app).rglob("*.py"):
            if not {"tests", "migrations"} & set(path.parts):
                strings |= set(python_strings(path.read_text(encoding="utf-8")))
    for path in (root / "templates").rglob("*.html"):
        strings |= set(template_strings(path.read_text(encoding="utf-8")))
    return strings


def test_every_string_has_a_translation() -> None:
    strings = used()
    assert len(strings) > 300  # the search itself still finds them
    catalogue = written()
    missing = sorted(string for string in strings if not catalogue.get(string))
    assert not missing, missing


def test_nothing_is_translated_that_is_not_said() -> None:
    left_over = sorted(set(written()) - used() - {""})
    assert not left_over, left_over


def test_the_compiled_catalogue_is_the_written_one() -> None:
    with (FOLDER / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for msgid, msgstr in written().items():
        if msgid:
            plural = compiled.ngettext(msgid, msgid, 1)
            assert msgstr in {compiled.gettext(msgid), plural}, msgid


@pytest.mark.parametrize("mark", ["#, fuzzy", "msgstr[1]"])
def test_the_catalogue_is_finished(mark: str) -> None:
    assert mark not in (FOLDER / "django.po").read_text(encoding="utf-8")


def test_translations_keep_their_placeholders() -> None:
    for msgid, msgstr in written().items():
        if msgid:
            assert set(PLACEHOLDER.findall(msgid)) == set(PLACEHOLDER.findall(msgstr)), msgid


def test_the_language_is_found_by_its_code() -> None:
    with translation.override("zh-hans"):
        assert translation.gettext("Overview") == "概览"
