"""requirements.txt agrees with requirements.in: every wish is pinned, within its range, no index."""

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    problems = []
    pins: dict[str, str] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
        if found is None:
            problems.append(f"requirements.txt: {line!r} is not a plain pin")
            continue
        pins[canonicalize_name(found[1])] = found[2]
    for line in (ROOT / "requirements.in").read_text().splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        wish = Requirement(line)
        pin = pins.get(canonicalize_name(wish.name))
        if pin is None:
            problems.append(f"{wish.name} is wanted and not pinned: run `make lock`")
        elif not wish.specifier.contains(pin):
            problems.append(f"{wish.name}=={pin} is outside {wish.specifier}: run `make lock`")
    print("\n".join(problems) or f"{len(pins)} pins agree with requirements.in")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
