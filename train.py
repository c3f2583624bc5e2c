"""Train and sample: ``python train.py experiment=cask_su2``. See ``python train.py --help``."""

import sys

from lattice_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
