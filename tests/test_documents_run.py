"""The commands of the documents, run as they stand in a folder with the inputs that they name."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert_torch_ckpt import main as convert
from sarwmix_jax.cli.main import main
from tests.documents import DOCUMENTS, README, ROOT, blocks, commands_of, inputs, why_not_run
from tests.support import GOLDEN
from tests.training.conftest import TINY_RUN

__all__ = ["inputs"]
TRAINING = ("pretrain", "finetune", "dry-run", "demo")
