"""Texts from outside, before they go into a row; texts for people, in the language of who reads.

What services and checks say to people is English: it goes into logs, rows and programs' hands. A
sentence that is made as a `Text` remembers how, so that a page can say it in the reader's language:

    raise InvalidInput(Text("More than %(most)s splits.", most=20), field="files")
    ...
    shown(error.message)  # "最多 20 个划分。" for somebody who reads Chinese
"""

from collections.abc import Mapping
from typing import Any, Self

MAKINGS = "made_of"  # of a mapping with sentences: how those were made, by the sentence's key


def storable(text: str, *, limit: int | None = None) -> str:
    """The text without what PostgreSQL cannot hold: NUL, and halves of surrogate pairs, which JSON
    escapes may bring. What has more than `limit` characters is cut."""
    is_cut = limit is not None and len(text) > limit
    sound = text[:limit].replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return sound + "…" if is_cut else sound


class Text(str):
    """An English sentence, made of a template and its values; `makemessages` finds the template.

    A value may be a Text, a list of values, which commas join, or anything that `str` can write.
    """

    __slots__ = ("template", "values")
    template: str
    values: Mapping[str, Any]

    def __new__(cls, template: str, /, **values: Any) -> Self:
        made = super().__new__(cls, template % _written(values) if values else template)
        made.template, made.values = template, values
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:  # copies and pickles
        return (self.template,), dict(self.values)


def shown(text: str) -> str:
    """The sentence in the language that is active; a text of unknown making where the whole of it is
    in the catalogue, else as it is."""
    # Checks run in processes without Django, and say what they find with this module.
    from django.utils.translation import gettext

    if not text:
        return ""
    if not isinstance(text, Text):
        return gettext(text)
    if not text.values:
        return gettext(text.template)
    try:
        return gettext(text.template) % _written(text.values, shown)
    except (KeyError, ValueError, TypeError):  # a row's template is older than the catalogue
        return str(text)


def making(text: str) -> dict[str, Any] | None:
    """How a sentence was made, as JSON; None for one that is no `Text`."""
    if not isinstance(text, Text):
        return None
    return {"template": text.template, "values": {k: _kept(v) for k, v in text.values.items()}}


def kept(said: Mapping[str, Any], key: str) -> str:
    """A sentence of a mapping that `with_makings` made, as it was before."""
    makings = said.get(MAKINGS)
    made = makings.get(key) if isinstance(makings, Mapping) else None
    return _remade(said.get(key) or "", made)


def _remade(text: str, made: Any) -> str:
    if not isinstance(made, Mapping) or not isinstance(made.get("template"), str):
        return text
    values = made.get("values") or {}
    try:
        again = Text(made["template"], **{k: _remade_value(v) for k, v in values.items()})
    except (KeyError, ValueError, TypeError):
        return text
    return again if again == text else text


def with_makings(said: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as plain JSON, with the makings of its sentences beside them."""
    makings = {key: made for key, one in said.items() if (made := making(one)) is not None}
    plain = {key: str(one) if isinstance(one, Text) else one for key, one in said.items()}
    return plain | {MAKINGS: makings} if makings else plain


def shown_from(said: Mapping[str, Any], key: str) -> str:
    """A sentence of a mapping that `with_makings` made, in the language that is active."""
    return shown(kept(said, key))


def _written(values: Mapping[str, Any], write: Any = str) -> dict[str, str]:
    return {key: _as_text(value, write) for key, value in values.items()}


def _as_text(value: Any, write: Any) -> str:
    if isinstance(value, Text):
        return str(write(value))
    if isinstance(value, list | tuple):
        return ", ".join(_as_text(one, write) for one in value)
    return str(value)


def _kept(value: Any) -> Any:
    if isinstance(value, Text):
        return making(value)
    if isinstance(value, list | tuple):
        return [_kept(one) for one in value]
    return value if isinstance(value, int | float) else str(value)


def _remade_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        values = value.get("values") or {}
        return Text(value["template"], **{k: _remade_value(v) for k, v in values.items()})
    if isinstance(value, list):
        return [_remade_value(one) for one in value]
    return value
