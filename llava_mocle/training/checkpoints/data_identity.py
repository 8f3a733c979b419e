"""What a run is trained on, by digests of the contents: a file may change while its name stays the same."""

from pathlib import Path
from typing import Any

from llava_mocle.clustering import ClusterModel
from llava_mocle.data.mixture import Mixture
from llava_mocle.errors import ConfigError
from llava_mocle.model.folders import CLUSTERS_FOLDER
from llava_mocle.training.checkpoints.manifest import checkpoint_facts

# How many characters of a digest a message shows.
_SHOWN = 16


def data_identity(
    train: Mixture, held_out: Mixture | None, routed_by: ClusterModel | None, turns: str | None = None
) -> dict[str, Any]:
    """The digests of a run's data, which each of its checkpoints keeps in the manifest.

    Args:
        train: the rows to train on.
        held_out: the rows to validate on, if any.
        routed_by: the cluster model that chooses experts; None where none does.
        turns: which human turns choose experts by themselves, without clusters; None where none do.

    Returns:
        `rows` and `held_out_rows` (dataset name -> digest of its rows), `cluster_model` (its fingerprint, or None), and
        `instruction_turns`, if `turns` is given.
    """
    found = {
        "rows": _digests(train),
        "held_out_rows": _digests(held_out) if held_out is not None else {},
        "cluster_model": routed_by.fingerprint if routed_by is not None else None,
    }
    return found if turns is None else {**found, "instruction_turns": turns}


def _digests(mixture: Mixture) -> dict[str, str]:
    found = {name: getattr(rows, "digest", None) for name, rows in mixture.rows.items()}
    return {name: digest for name, digest in found.items() if digest is not None}


def check_data_identity(
    checkpoint: Path, now: dict[str, Any], train: Mixture, held_out: Mixture | None, clusters: str | None
) -> None:
    """Refuse to resume on other rows, or with another clustering, than the checkpoint was trained with.

    A checkpoint of an early release has no digests in its manifest; it is not compared.

    Args:
        checkpoint: the folder to resume from.
        now: `data_identity` of this run.
        train: the rows to train on, for the message.
        held_out: the rows to validate on, for the message.
        clusters: the cluster model's folder, for the message.

    Raises:
        ConfigError: names the dataset's file or the cluster model's folder, with both values.
    """
    before = checkpoint_facts(checkpoint)
    turns = now.get("instruction_turns")
    if before.get("instruction_turns", turns) != turns:
        raise ConfigError(
            f"instruction_turns is {turns!r}, but {checkpoint} was trained with {before['instruction_turns']!r}; set "
            "it to that, or choose another output_dir"
        )
    for kind, mixture in (("rows", train), ("held_out_rows", held_out)):
        paths = {spec.name: spec.data_path for spec in mixture.specs} if mixture is not None else {}
        for name, digest in now[kind].items():
            then = before.get(kind, {}).get(name, digest)
            if then != digest:
                raise ConfigError(
                    f"{paths[name]}: the {kind.replace('_', ' ').replace('held out', 'held-out')} of dataset {name!r} "
                    f"are not those that {checkpoint} was trained with (digest {then[:_SHOWN]} then, "
                    f"{digest[:_SHOWN]} now); restore the file, or choose another output_dir"
                )
    then, fingerprint = before.get("cluster_model"), now["cluster_model"]
    if then is not None and fingerprint is not None and then != fingerprint:
        raise ConfigError(
            f"{clusters}: this is not the cluster model that {checkpoint} was trained with (fingerprint {then} then, "
            f"{fingerprint} now); restore it (the checkpoint has a copy under {CLUSTERS_FOLDER}/), or choose another "
            "output_dir"
        )
