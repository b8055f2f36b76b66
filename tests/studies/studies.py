"""Studies small enough to be run in tests."""

from pathlib import Path
from typing import Any

from sarwmix_jax.settings.study import StudySettings, resolve_study, study_config
from sarwmix_jax.studies.folder import StudyFolder, open_folder

MODEL = (
    "model.image_size=64 model.windows=(4,4,4,2) model.num_heads=(1,1,1,1) model.embed_dim=4 "
    "model.decoder_dim=8 model.decoder_depth=1 model.decoder_heads=1 batch.global_batch=8 data.threads=1"
)
PRETRAINING = f"demo validation.split= {MODEL} batch.mix_group=4 optimizer.stop_after_steps=3 log.every_steps=1"
FINETUNING = f"finetune_demo {MODEL} optimizer.stop_after_steps=2 log.every_steps=1"
SCENES = (32, 16, 24)

PLAIN = {"scenes": SCENES, "variants": (), "measured": ("baseline",), "fractions": (0.5, 1.0), "seeds": (0, 1)}
"""Without a model: scenes and baselines alone."""
WHOLE = {
    "scenes": SCENES,
    "pretraining": PRETRAINING,
    "variants": ("weighted",),
    "finetuning": FINETUNING,
    "fractions": (0.5,),
    "seeds": (0,),
    "measured": ("finetuned", "probe", "baseline", "reconstruction"),
}
"""One of everything."""


def study(**changes: Any) -> StudySettings:
    config = study_config()
    config.update(changes)
    return resolve_study(config)


def opened(path: Path, **changes: Any) -> StudyFolder:
    return open_folder(study(**changes), path)


def config_file(path: Path, **changes: Any) -> Path:
    """A study as a file of its own."""
    lines = [f"    config.{name} = {value!r}" for name, value in changes.items()]
    start = "from sarwmix_jax.settings.study import study_config\n\n\ndef get_config():\n    config = study_config()"
    path.write_text("\n".join([start, *lines, "    return config", ""]))
    return path
