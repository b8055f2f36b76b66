"""What a wheel has, and that it works alone: installed, in an empty folder, with nothing of the clone."""

import configparser
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sarwmix_jax.settings.recipes import recipes
from sarwmix_jax.version import __version__
from tests.data_prep.test_geotiff import scene_db, write_raster
from tests.support import GOLDEN
from tests.training.conftest import TINY_RUN

ROOT = Path(__file__).parents[1]
SMALL = [f"--config.{name}={value}" for name, value in TINY_RUN.items() if name.startswith("model.")]


def test_setup_lists_every_package_and_the_recipes():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "sarwmix_jax").rglob("__init__.py")}
    assert listed == sorted(found | {"sarwmix_jax.configs"})
    assert setup["options"]["package_dir"].split() == ["sarwmix_jax.configs", "=", "configs"]


def test_recipes_of_a_checkout_are_the_files_of_configs():
    assert list(recipes().values()) == sorted((ROOT / "configs").glob("*.py"))


LISTENER = """
import os, sys
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def listen(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes, os.PathLike)):
        os.write(log, os.path.abspath(os.fsencode(arguments[0])) + b"\\n")
sys.addaudithook(listen)
"""
"""Notes every file and folder that any Python of the environment opens."""


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel and its dependencies alone, and an empty folder."""

    environment: Path
    folder: Path
    opened: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the empty folder, with a home of its own; it compiles quickly."""
        program, *arguments = command
        return subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=self.folder,
            env={"HOME": str(self.folder.parent / "home"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def sarwmix(self, *arguments: str, code: int = 0) -> str:
        """What a command prints; it opens nothing of the clone."""
        self.opened.unlink(missing_ok=True)
        done = self.run("sarwmix", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert any(path.is_relative_to(self.environment / "lib") for path in self.files())
        assert not [path for path in self.files() if path.is_relative_to(ROOT)]
        return done.stdout + done.stderr

    def files(self) -> list[Path]:
        """Files that were opened."""
        return [Path(line) for line in self.opened.read_text().splitlines()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel built from the source distribution of a copy of the tracked files, and installed with what it needs."""
    top = tmp_path_factory.mktemp("wheel")
    source, environment, python = top / "source", top / "environment", top / "environment" / "bin" / "python"
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([*pip, "build"], env=variables, check=True)
    subprocess.run([python, "-m", "build", "--outdir", top / "dist", source], env=variables, check=True)
    (wheel,) = (top / "dist").glob("*.whl")
    subprocess.run([*pip, wheel], env=variables, check=True)
    shutil.rmtree(source)
    place = next((environment / "lib").glob("python*/site-packages"))
    (place / "listener.py").write_text(LISTENER.format(log=str(top / "opened")))
    (place / "listener.pth").write_text("import listener\n")
    for name in ("empty", "home"):
        (top / name).mkdir()
    return Installed(environment, top / "empty", top / "opened")


@pytest.mark.slow
def test_what_is_opened_of_the_clone_would_be_seen(installed):
    installed.run("python", "-c", f"open({str(ROOT / 'setup.cfg')!r})")
    assert ROOT / "setup.cfg" in installed.files()


@pytest.mark.slow
def test_version_and_settings_from_the_wheel(installed):
    assert installed.sarwmix("--version").split()[-1] == __version__
    assert "batch.micro_batch" in installed.sarwmix("settings")
    assert "did you mean --config=demo" in installed.sarwmix("dry-run", "--config=demmo", code=2)


@pytest.mark.slow
def test_demo_from_the_wheel(installed):
    """Two steps are too few: it runs to its end and fails its margin."""
    printed = installed.sarwmix(
        "demo",
        "--workdir=demo",
        "--scenes=48",
        "--config.optimizer.stop_after_steps=2",
        "--compiled=off",
        *SMALL,
        code=1,
    )
    assert "error: the margin is below 10%: the model did not learn enough" in printed
    assert (installed.folder / "demo" / "reconstruction.png").is_file()
    assert any(path.match("site-packages/sarwmix_jax/configs/demo.py") for path in installed.files())


@pytest.mark.slow
def test_own_scenes_from_the_wheel(installed):
    for number in range(2):
        path = installed.folder / "scenes" / f"gamma0_{number}.tif"
        values = 10 ** (scene_db(256, number) / 10)
        write_raster(path, values, descriptions=["VH", "VV"], crs=f"EPSG:326{30 + number}")
    installed.sarwmix("prepare", "geotiff", "--inputs", "scenes", "--out", "records", "--tile", "64")
    changes = ("--config.data.records=records", "--config.batch.global_batch=8", "--config.validation.split=")
    plan = installed.sarwmix("dry-run", "--config=demo", *changes, "--compiled=off", *SMALL)
    assert "16 of records, split train" in plan and "validation:  none" in plan and "2 per epoch" in plan


@pytest.mark.slow
def test_conversion_from_the_wheel(installed):
    shutil.copy(GOLDEN / "pretrain_tiny.pth", installed.folder)
    options = ("--statistics=bigearthnet_v2", "--decoder-heads=4")
    assert "kind pretraining" in installed.sarwmix("convert", "pretrain_tiny.pth", "converted", *options)
    assert (installed.folder / "converted").is_dir()
