"""Hints of personal data and secrets in texts; what is found is masked before it is told.

Patterns with a checksum are checked (cards by Luhn, resident identity numbers by ISO 7064 MOD 11-2
as GB 11643 has it, IBANs by ISO 7064 MOD 97-10); the others are hints and no more. Every pattern is
linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from training.doctor.examples import Example
from training.doctor.findings import Finding, Ledger

PER_LINE = 5  # of each kind that are told of one line
EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{2,63}){1,5}"
)
NUMBER = re.compile(r"(?<![\w.,/-])\+?\(?\d[\d() -]{5,30}[\dXx](?![\w/-]|[.,]\d)")
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\d|\w)")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
SECRET = re.compile(
    r"-----BEGIN (?:[A-Z]{1,20} ){0,3}PRIVATE KEY"
    r"|(?<![\w-])(?:sk-(?:proj-|ant-)?[\w-]{20,200}"  # OpenAI, Anthropic
    r"|gh[pousr]_\w{36,255}|github_pat_\w{22,255}|glpat-[\w-]{20,64}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,200}|hf_\w{30,64}|LTAI\w{12,24}"
    r"|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,2000}\.[\w-]{10,2000})"
)
SECRET_STARTS = ("-----BEGIN", "sk-", "gh", "glpat-", "AKIA", "AIza", "xox", "hf_", "LTAI", "eyJ")
SECRET_START = re.compile("|".join(map(re.escape, SECRET_STARTS)))
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECKS = "10X98765432"
CHINESE_MOBILE = re.compile(r"1[3-9]\d{9}")
LOCAL_ADDRESSES = ("127.", "0.", "255.", "10.", "192.168.", "172.16.")  # nobody's in particular


def look(ledger: Ledger, example: Example) -> None:
    for number, (_role, text) in enumerate(example.turns):
        told: dict[str, int] = {}
        for kind, value in find(text):
            told[kind] = told.get(kind, 0) + 1
            if told[kind] <= PER_LINE:
                place = f"messages.{number}"
                ledger.add(Finding(kind, example.split, example.line, place, masked(value)))


def find(text: str) -> Iterator[tuple[str, str]]:
    """(kind, value) pairs in one text."""
    if "@" in text:
        for found in EMAIL.finditer(text):
            yield "email", found[0]
    if SECRET_START.search(text):
        for found in SECRET.finditer(text):
            yield "secret", found[0]
    if not DIGITS.search(text):
        return
    yield from _numbers(text)


def _numbers(text: str) -> Iterator[tuple[str, str]]:
    for found in NUMBER.finditer(text):
        kind = kind_of_number(found[0])
        if kind:
            yield kind, found[0]
    if text.count(".") >= 3:
        for found in IPV4.finditer(text):
            parts = [int(part) for part in found[0].split(".")]
            if max(parts) <= 255 and not found[0].startswith(LOCAL_ADDRESSES):
                yield "ip", found[0]
    for found in IBAN.finditer(text):
        if is_iban(found[0]):
            yield "iban", found[0]


DIGITS = re.compile(r"\d[\d. ()-]{4}")  # anything that could be a number worth looking at


def kind_of_number(text: str) -> str:
    """card, national_id, phone, or "" for a number that is none of them."""
    digits = "".join([c for c in text if c.isdigit() or c in "Xx"])
    grouped = any(c in text for c in " -()")
    if len(digits) == 18 and is_resident_id(digits.upper()):
        return "national_id"
    if not digits.isdigit():
        return ""
    if 13 <= len(digits) <= 19 and digits[0] in "23456" and is_luhn(digits):
        return "card"
    if text.startswith("+") and 8 <= len(digits) <= 15:
        return "phone"
    bare = digits.removeprefix("86") if len(digits) == 13 else digits
    if CHINESE_MOBILE.fullmatch(bare):
        return "phone"
    if (
        grouped
        and len(digits) in (10, 11)
        and re.fullmatch(
            r"(?:1[ -])?\(?[2-9]\d\d\)?[ -]\d{3}[ -]\d{4}|\(?0\d{2,3}\)?[ -]\d{7,8}", text
        )
    ):
        return "phone"
    return ""


def is_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1


def is_resident_id(text: str) -> bool:
    """18 characters: a region, a day of birth, and a check digit that fits."""
    if not text[:17].isdigit() or text[0] == "0":
        return False
    year, month, day = int(text[6:10]), int(text[10:12]), int(text[12:14])
    if not (1900 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], ID_WEIGHTS, strict=True))
    return ID_CHECKS[total % 11] == text[17]


def is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    moved = plain[4:] + plain[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def masked(value: str) -> str:
    """The first and the last two characters; all between is hidden."""
    if len(value) <= 6:
        return "•" * len(value)
    return f"{value[:2]}{'•' * min(len(value) - 4, 12)}{value[-2:]}"
