"""Where a dataset's files are, and what killed processes may have left beside them."""

from __future__ import annotations

import os
from pathlib import Path

from minari.dataset.minari_storage import METADATA_FILE_NAME

from safe_rl.errors import UserError
from safe_rl.storage import MANIFEST, restore_former, verify_manifest

DATA_FOLDER = "data"
"""Where Minari looks for its files within the folder of a dataset."""
TABLE_FILE = "table.npz"
"""The episodes of a dataset written here once more, in one piece that loads at once; the manifest vouches for both."""
METADATA_KEY = "safe_rl"
"""The entry of Minari's metadata that holds ours."""


def partial_folder(path: Path) -> Path:
    """Returns where the episodes of an unfinished collection into ``path`` are kept."""
    return path.with_name(f"{path.name}.partial")


def find_dataset(path: Path) -> Path:
    """Returns the folder of a dataset, given it, the ``data`` folder in it, or the id of a local dataset of Minari's.

    Raises:
        UserError: There is none.
    """
    if not path.exists():
        restore_former(path.parent, path.name)
    if not path.exists():
        root = os.environ.get("MINARI_DATASETS_PATH", os.path.join(os.path.expanduser("~"), ".minari", "datasets"))
        if not path.is_absolute() and is_dataset(Path(root) / path):
            return Path(root) / path
        if partial_folder(path).exists():
            raise UserError(f"the collection of {path} was interrupted: finish it with safe-rl collect --resume")
        raise UserError(
            f"no dataset at {path}: the folder does not exist; make it with safe-rl collect --output {path}"
        )
    if path.name == DATA_FOLDER and (path / METADATA_FILE_NAME).is_file() and (path.parent / MANIFEST).is_file():
        return path.parent
    if not is_dataset(path):
        if (path / MANIFEST).is_file():
            verify_manifest(path)
        raise UserError(f"{path} is not a dataset: it holds no {DATA_FOLDER}/{METADATA_FILE_NAME}")
    return path


def is_dataset(path: Path) -> bool:
    """Tells whether a folder holds a Minari dataset."""
    return (data_folder(path) / METADATA_FILE_NAME).is_file()


def data_folder(path: Path) -> Path:
    """Returns where Minari's files are: in the ``data`` folder, or in the dataset's folder itself."""
    return path if (path / METADATA_FILE_NAME).is_file() else path / DATA_FOLDER
