"""TensorBoard events straight into the run's folder."""

from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without sub-folders and without its ``hparams.yaml``: Hydra keeps the run's config.

    Args:
        save_dir: the run's folder.
        options: as in Lightning's ``TensorBoardLogger``.
    """

    def __init__(self, save_dir: str, **options):
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **options)

    def save(self) -> None:
        if self._experiment is not None:
            self.experiment.flush()
