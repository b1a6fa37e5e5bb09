"""Loading as Stable-Baselines3 does it: what is quoted is unpickled, unless it is replaced."""

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch


def load_from_zip_file(
    path: str, custom_objects: dict[str, Any], device: str
) -> tuple[dict[str, Any], dict[str, Any], None]:
    with zipfile.ZipFile(path) as archive:
        page = json.loads(archive.read("data"))
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    found: dict[str, Any] = {}
    for name, value in page.items():
        if name in custom_objects:
            found[name] = custom_objects[name]
        elif isinstance(value, dict) and ":serialized:" in value:
            found[name] = _unpickled(base64.b64decode(value[":serialized:"]))
        else:
            found[name] = value
    return found, {"policy": weights}, None


def load_from_pkl(path: str) -> Any:
    return _unpickled(Path(path).read_bytes())


def _unpickled(content: bytes) -> Any:
    return pickle.loads(content)  # noqa: S301  # as the library does, which is what is tested
