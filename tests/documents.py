"""Commands in README.md, docs/*.md and the docstrings of recipes and commands, and the inputs that they name."""

import ast
import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet

from sarwmix_jax.cli.commands import COMMANDS, DATA_SETS, FAMILIES
from sarwmix_jax.cli.main import chosen
from sarwmix_jax.facts.labels import ORIGINAL_TO_CLASS
from sarwmix_jax.facts.released import RELEASED
from tests.data_prep.conftest import write_tree
from tests.data_prep.flood_miniature import write_miniature, zip_of
from tests.data_prep.test_geotiff import scene_db, write_raster
from tests.reports import logs

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = (README, *sorted((ROOT / "docs").glob("*.md")))
SHELL = ("sh", "bash", "console", "shell")


PLACEHOLDERS = ("DATASET", "COMMAND")
"""Words of the running text that stand for any of several."""

NOT_RUN = {
    "gdown": "downloads",
    **{f"sarwmix convert {each.file}": "needs a download; another file of this name is refused" for each in RELEASED},
    "sarwmix demo": "takes minutes; the tests of the demo and of the wheel run it, shortened",
    **{
        f"sarwmix {command} runs/base --step 12000": "names a step of a long run; tests have short ones"
        for command in ("checkpoints verify", "audit")
    },
    "sarwmix study": "takes hours; the tests of studies run small ones",
    "sarwmix reconstruct --checkpoint runs/labels/pretrain/pretrained/seed0": "needs a study that takes hours",
    "make": "installs an environment and runs for long; CI runs check, test, test-slow and smoke",
    "pip": "installs; the test of the wheel does",
    "python -m benchmarks": "needs a GPU",
    "python -m benchmarks.gpu_program": "needs the wheels for GPUs, and compiles for minutes",
}
"""Beginnings of the commands that the documents have and no test runs as they stand, and why. They are parsed."""


class Line(NamedTuple):
    """One command of a text, its words as a shell splits them."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of the code blocks of a document."""
    return re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def lines_of(text: str, place: str) -> list[Line]:
    """The commands of a text: continued lines joined, comments left out."""
    joined = text.replace("\\\n", " ").splitlines()
    return [Line(place, tuple(words)) for line in joined if (words := shlex.split(line, comments=True))]


def commands_of(path: Path) -> list[Line]:
    """The commands in the code blocks of a document, in order."""
    place = str(path.relative_to(ROOT))
    return [line for language, text in blocks(path) if language in SHELL for line in lines_of(text, place)]


def inline_commands_of(path: Path) -> list[Line]:
    """Commands in the running text of a document; dots stand for what is left out."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`((?:sarwmix|python) [^`]+)`", text)
    return [Line(str(path.relative_to(ROOT)), tuple(shlex.split(each))) for each in found]


def examples_of(path: Path) -> list[Line]:
    """The commands in the docstring at the head of a Python file, which are indented by four blanks."""
    docstring = ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""
    joined = docstring.replace("\\\n", " ").splitlines()
    indented = "\n".join(line for line in joined if re.match("    (sarwmix|python) ", line))
    place = str(path.relative_to(ROOT))
    return lines_of(indented, place)


def why_not_run(words: tuple[str, ...]) -> str | None:
    """Why no test runs a command of the documents; None for those that are run."""
    text = f"{' '.join(words)} "
    return next((why for start, why in NOT_RUN.items() if text.startswith(f"{start} ")), None)


def find_command(words: tuple[str, ...]) -> tuple[object, str, list[str]] | None:
    """Command, program and arguments of a line that calls `sarwmix`, under any of its names; None of another line."""
    doors = {f"data_prep/{name.replace('-', '_')}.py": command for name, command in DATA_SETS.items()}
    doors["data_prep/synthetic_scenes.py"] = DATA_SETS["synthetic"]
    doors["data_prep/band_stats.py"] = DATA_SETS["statistics"]
    doors["convert_torch_ckpt.py"] = COMMANDS["convert"]
    if words[0] == "python" and words[1] in doors:
        return doors[words[1]], " ".join(words[:2]), list(words[2:])
    rest = list(words[1:] if words[0] == "sarwmix" else words[3:])
    if words[0] != "sarwmix" and words[:3] != ("python", "-m", "sarwmix_jax"):
        return None
    if (family := rest[0]) in FAMILIES:
        what, commands = FAMILIES[family]
        return chosen(commands, what, f"sarwmix {family}", rest[1:]), f"sarwmix {family} {rest[1]}", rest[2:]
    return chosen(COMMANDS, "command", "sarwmix", rest), f"sarwmix {rest[0]}", rest[1:]


def write_inputs(folder: Path) -> None:
    """All that the documents name and nobody has made before: raw data of every kind, at a small size."""
    raw = folder / "DIR"
    shutil.move(write_tree(raw, 400), folder / "metadata.parquet")
    write_v1(raw, folder)
    flood = write_miniature(folder / "flood")
    index = json.loads((flood / "S1list.json").read_text())
    del index["0063"]["3"]  # a file of this scene is missing; the other folders hold what is left out
    (flood / "S1list.json").write_text(json.dumps({name: index[name] for name in ("0063", "7")}))
    zip_of(flood, folder / "FILE")
    shutil.copytree(flood, raw, dirs_exist_ok=True)
    logs.write(folder / "published" / "log.txt", logs.published(macro_AP=0.3))
    for number in range(3):
        values = 10 ** (scene_db(512, number)[:, :256] / 10)
        path = folder / "FOLDER" / f"gamma0_{number}.tif"
        write_raster(path, values, descriptions=["VH", "VV"], crs=f"EPSG:3263{number}")


def write_v1(raw: Path, folder: Path) -> None:
    """Twelve patches of the v2 tree in the layout of v1, and lists like the official ones, of Sentinel-2 names."""
    rows = pyarrow.parquet.read_table(folder / "metadata.parquet").to_pylist()[:12]
    original = next(iter(ORIGINAL_TO_CLASS))
    lists = {"train": rows[:8], "val": rows[8:10], "test": rows[10:]}
    for row in rows:
        name = row["s1_name"]
        source = raw / "BigEarthNet-S1" / name.rsplit("_", 3)[0] / name
        shutil.copytree(source, raw / "BigEarthNet-S1-v1.0" / name)
        text = json.dumps({"labels": [original], "corresponding_s2_patch": row["patch_id"]})
        (raw / "BigEarthNet-S1-v1.0" / name / f"{name}_labels_metadata.json").write_text(text)
    for split, some in lists.items():
        write_csv(folder / f"{split}.csv", [[row["patch_id"]] for row in some])
    names = [[row["patch_id"], row["s1_name"], "Austria", "summer"] for row in rows]
    write_csv(folder / "s1_s2_name_country_season.csv", [["s2_name", "s1_name", "country", "season"], *names])


def write_csv(path: Path, rows: list[list[str]]) -> None:
    with path.open("w") as file:
        csv.writer(file).writerows(rows)
