"""Quality of the features during a pretraining run: nearest neighbours on a small labelled record set."""

from collections.abc import Callable

from flax import nnx
from jax.sharding import Mesh

from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.evaluation.features import labels_of, make_encode
from sarwmix_jax.evaluation.probes import Samples, neighbour_probe
from sarwmix_jax.evaluation.scoring import scores_of
from sarwmix_jax.models.state import Tree
from sarwmix_jax.settings.sections import ProbeSettings
from sarwmix_jax.tasks.task import Task

NEIGHBOURS = 20


def make_probe(
    settings: ProbeSettings, records: str, task: Task, graphdef: nnx.GraphDef, mesh: Mesh
) -> Callable[[Tree, Tree], dict[str, float]]:
    """A function (params, fixed) -> scores of the encoder's frozen features.

    Args:
        settings: Splits, and whether classes exclude each other.
        records: Folder of the labelled record set.
        task: The task of the run; its statistics standardise the images.
        graphdef: The model without its arrays.
        mesh: The devices.

    Raises:
        UserError: The records cannot be opened or carry no labels.
    """
    sources = [open_records(records, split) for split in (settings.train, settings.split)]
    for source in sources:
        check_contract(source)
    classes = sources[0].contract.classes
    truths = [labels_of(source, settings.task) for source in sources]
    batch = task.settings.batch.micro_batch or 1
    encode = make_encode(graphdef, task.statistics, task.settings.model.image_size, batch, mesh)

    def probe(params: Tree, fixed: Tree) -> dict[str, float]:
        train, held = (
            Samples(encode(params, fixed, source, f"probe: encoding {source.split}"), truth)
            for source, truth in zip(sources, truths, strict=True)
        )
        numbers = (min(NEIGHBOURS, len(train.features)),)
        found = neighbour_probe(train, held, held.features, len(classes), numbers)  # one number: no choice
        scores = scores_of(settings.task, found.probabilities, held.truth, classes, 0.5)
        return {"neighbours": float(numbers[0]), **scores.summary}

    return probe
