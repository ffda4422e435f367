"""`python -m demo.data --out DIR`: write the demo's datasets, each into a folder of its name."""

import argparse
from pathlib import Path

from demo.data.write import DATASETS, TRAIN_EXAMPLES, write_dataset


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--dataset", choices=DATASETS, help="only this one")
    parser.add_argument("--train", type=int, default=TRAIN_EXAMPLES, help="training examples")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in [options.dataset] if options.dataset else DATASETS:
        paths = write_dataset(name, options.out / name, train=options.train, seed=options.seed)
        for split, path in paths.items():
            print(f"{name} {split}: {path}")


if __name__ == "__main__":
    main()
