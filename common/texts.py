"""Texts from outside, before they go into a row."""


def storable(text: str, *, limit: int | None = None) -> str:
    """The text without what PostgreSQL cannot hold: NUL, and halves of surrogate pairs, which JSON
    escapes may bring. What has more than `limit` characters is cut."""
    is_cut = limit is not None and len(text) > limit
    sound = text[:limit].replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return sound + "…" if is_cut else sound
