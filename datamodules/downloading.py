"""Data sets that torchvision downloads."""

import logging
import tarfile
from typing import Any

from torch.utils.data import Dataset
from torchvision.datasets import utils
from tqdm import tqdm

log = logging.getLogger(__name__)


def download(source: type[Dataset], data_dir: str) -> None:
    """Have a data set of torchvision's put its files, and none elsewhere, into ``data_dir``.

    Raises: OSError: they are not there, and could not be fetched.
    """

    def bar(*args, total: int | None = None, **options) -> Any:
        size = f"{total / 1e6:.1f} MB" if total else "a file"
        log.info(f"{'downloading':<12} {size} of {source.__name__} to {data_dir}")
        return tqdm(*args, total=total, disable=None, **options)  # None: only on a terminal

    utils.tqdm = bar  # torchvision's own would draw in a log file too
    # Not every torchvision asks for the filter, and Python has it by default from 3.14 on.
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        source(data_dir, download=True)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise OSError(
            f"{source.__name__} is not in datamodule.data_dir={data_dir}, or not as it was published, and the "
            f"download failed: {error}"
        ) from error
