"""PolicyBundle: a folder that holds all a robot needs to decide, and nothing that is executed.

```
bundle.json           what it is: spaces, switch, limits, stop, calibration, provenance (``safe_rl.shield.spec``)
weights.safetensors   normalisation and networks, for the PyTorch engine
decide.onnx           the same as graphs, for ONNX Runtime (optional)
filter.onnx
distribution.safetensors   what the risk critic's features look like on known data (after calibration)
calibration.html, ...      pictures of the calibration
manifest.json         SHA-256 of every other file
```
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from safe_rl.errors import UserError
from safe_rl.shield.spec import BundleSpec, SpecError
from safe_rl.storage import MANIFEST, read_json, restore_former, staged_folder, verify_manifest

SPEC = "bundle.json"
WEIGHTS = "weights.safetensors"
DECIDE_GRAPH = "decide.onnx"
FILTER_GRAPH = "filter.onnx"
DISTRIBUTION = "distribution.safetensors"

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PolicyBundle:
    """A bundle that was opened: its files are those of the manifest, its ``bundle.json`` is in order."""

    path: Path
    spec: BundleSpec
    files: Mapping[str, str] = field(default_factory=dict)
    """Names of the files that the manifest vouches for, and the SHA-256 of each; no other is read."""

    @classmethod
    def load(cls, path: Path | str) -> PolicyBundle:
        """Opens a bundle; executes nothing of it.

        Raises:
            UserError: It is missing, incomplete, damaged, or of a newer version.
        """
        path = Path(path)
        if not path.is_dir():
            restore_former(path.parent, path.name)
        if not path.is_dir():
            raise UserError(f"no bundle at {path}: make one with safe-rl export RUN --output {path}")
        if not (path / SPEC).exists() and not (path / MANIFEST).exists():
            raise UserError(f"{path} is not a bundle: it has no {SPEC}; make one with safe-rl export RUN --output ...")
        files = verify_manifest(path)
        if SPEC not in files:
            raise UserError(f"{path / MANIFEST} does not vouch for {SPEC}: export the run again")
        try:
            spec = BundleSpec.from_json(read_json(path / SPEC, files[SPEC]))
        except SpecError as error:
            raise UserError(f"{path / SPEC} cannot be used: {error}") from error
        return cls(path, spec, files)

    @property
    def has_graphs(self) -> bool:
        """Whether ONNX graphs were exported."""
        return {DECIDE_GRAPH, FILTER_GRAPH} <= self.files.keys()

    def read_bytes(self, name: str) -> bytes:
        """The content of one of the bundle's files.

        Raises:
            UserError: It is not there, or not what it was when the bundle was opened.
        """
        if name not in self.files:
            raise UserError(f"bundle {self.path} has no {name}: export the run again")
        try:
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / name} cannot be read ({error.strerror}): export the run again") from error
        if hashlib.sha256(content).hexdigest() != self.files[name]:
            raise UserError(f"{self.path / name} was changed while the bundle was in use: try again")
        return content

    def read_arrays(self, name: str) -> Arrays:
        """The arrays of a safetensors file.

        Raises:
            UserError: It is missing or damaged.
        """
        content = self.read_bytes(name)
        try:
            arrays: Arrays = load(content)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / name} is damaged ({error}): export the run again") from error
        for key, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(f"{self.path / name} holds NaN or infinity in {key}: export another checkpoint")
        return arrays


def write_bundle(path: Path, spec: BundleSpec, files: Mapping[str, bytes]) -> PolicyBundle:
    """Writes a bundle whole or not at all; one that is there is replaced at the end.

    Args:
        path: The bundle's folder.
        spec: Becomes ``bundle.json``.
        files: Name and content of every other file.

    Raises:
        UserError: The folder cannot be written; the former bundle is kept.
    """
    with staged_folder(path) as staging:
        _write(staging, spec, files)
    return PolicyBundle.load(path)


def update_bundle(bundle: PolicyBundle, spec: BundleSpec, files: Mapping[str, bytes]) -> PolicyBundle:
    """Writes ``bundle`` again with another ``bundle.json`` and additional or other files; the rest stays.

    Raises:
        UserError: The folder cannot be written; the former bundle is kept.
    """
    with staged_folder(bundle.path) as staging:
        for name in bundle.files.keys() - files.keys():
            (staging / name).write_bytes(bundle.read_bytes(name))
        _write(staging, spec, files)
    return PolicyBundle.load(bundle.path)


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """A safetensors file's content."""
    content: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return content


def _write(folder: Path, spec: BundleSpec, files: Mapping[str, bytes]) -> None:
    (folder / SPEC).write_text(json.dumps(spec.to_json(), indent=2) + "\n")
    for name, content in files.items():
        (folder / name).write_bytes(content)


def may_write(path: Path, *, overwrite: bool) -> None:
    """Checks that a bundle may be written to ``path``.

    Raises:
        UserError: Something is there that must not be replaced.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / SPEC).is_file():
        raise UserError(f"{path} holds other files and no bundle: choose another --output")
    if not overwrite:
        raise UserError(f"{path} already holds a bundle: replace it with --overwrite, or choose another --output")
