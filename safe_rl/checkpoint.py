"""Checkpoints: tensors in safetensors, the rest in JSON, never a pickle."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from safe_rl.errors import UserError
from safe_rl.storage import clear_leftovers, restore_former, staged_folder, verify_manifest

FORMAT_VERSION = 1
KEEP = 2
_NAME = re.compile(r"step_(\d+)")
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The names of types in safetensors' format."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes ``state`` to ``folder/step_<step>`` and removes all but the newest two checkpoints.

    Args:
        folder: The run's folder of checkpoints.
        step: Environment steps so far.
        state: Nested dictionaries of tensors, arrays and JSON values.

    Raises:
        UserError: The disk is full; the former checkpoints are kept.
    """
    final = folder / f"step_{step:09d}"
    clear_leftovers(folder)
    save_state(final, state)
    for old in list_checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints in ``folder``, the oldest first."""
    if not folder.is_dir():
        return []
    restore_former(folder)
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_newest(folder: Path) -> dict[str, Any]:
    """Loads the newest checkpoint in ``folder``.

    Raises:
        UserError: There is none, or it is damaged; where the former one can be read, the error says how to use that.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise UserError(
            f"no checkpoint in {folder}: the run was stopped before its first one, train it again with --overwrite"
        )
    newest = checkpoints[-1]
    try:
        content, tensors = _read(newest)
    except UserError as error:
        if len(checkpoints) == 1 or not _is_readable(checkpoints[-2]):
            raise
        raise UserError(
            f"{error}; the checkpoint before it, {checkpoints[-2].name}, is whole: "
            f"to use that, move {newest.name} out of {folder}"
        ) from error
    return _restored(newest, content, tensors)


def has_state(folder: Path) -> bool:
    """Whether ``save_state`` wrote the folder; a former version counts where a kill prevented the new one."""
    restore_former(folder.parent, folder.name)
    return folder.is_dir()


def save_state(final: Path, state: dict[str, Any]) -> None:
    """Writes nested dictionaries of tensors, arrays and JSON values to the folder ``final``, whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    values = _split(state, "", tensors)
    with staged_folder(final) as staging:
        _save_tensors(tensors, staging / "tensors.safetensors")
        (staging / "state.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "state": values}))


def load_state(folder: Path) -> dict[str, Any]:
    """Reads what ``save_state`` wrote; arrays come back as tensors.

    Raises:
        UserError: The folder is missing, damaged, or of a newer version.
    """
    if not has_state(folder):
        raise UserError(f"no checkpoint at {folder}")
    return _restored(folder, *_read(folder))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Reads both files; raises ``UserError`` where they are damaged."""
    verify_manifest(folder)
    try:
        return json.loads((folder / "state.json").read_text()), load_file(folder / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint {folder} cannot be read ({error}): restore it or train again") from error


def _restored(folder: Path, content: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Puts together what was read; raises ``UserError`` where a newer version wrote it."""
    if content["format_version"] > FORMAT_VERSION:
        raise UserError(f"checkpoint {folder} is of the newer format {content['format_version']}: update safe_rl")
    state: dict[str, Any] = _join(content["state"], tensors)
    return state


def _is_readable(folder: Path) -> bool:
    try:
        load_state(folder)
    except UserError:
        return False
    return True


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes a safetensors file, each tensor straight from its memory: the library's writer first copies all of them.

    The format: the header's length (8 bytes), the header (JSON: type, shape and place of each), the tensors' bytes.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so that all are aligned
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, tensor in ordered:
            if tensor.numel():
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Moves tensors and arrays out of ``value`` into ``tensors`` and leaves their names behind."""
    if isinstance(value, dict):
        return {key: _split(item, f"{path}.{key}" if path else str(key), tensors) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.asarray(value, order="C"))
    if isinstance(value, torch.Tensor):
        name = path if path not in tensors else f"{path}#{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous()
        return {"__tensor__": name}
    return value


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        return {key: _join(item, tensors) for key, item in value.items()}
    return value
