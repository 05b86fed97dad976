"""What the OpenAPI document says of the facts of a data set."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def _of(type_: str, **more: Json) -> Json:
    return {"type": type_, **more}


def _object(properties: Json, **more: Any) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties, **more}


_TEXT, _COUNT, _FLAG = _of("string"), _of("integer"), _of("boolean")
_TEXTS: Json = {"type": "array", "items": _TEXT}
_VOXELS: Json = {"type": "array", "items": _COUNT, "description": "(x, y, z)"}
_LENGTHS: Json = {"type": "array", "items": _of("number"), "description": "(x, y, z)"}

_LEVEL = _object(
    {
        "key": _TEXT,
        "size_vx": _VOXELS,
        "voxel_nm": _LENGTHS,
        "chunk_vx": _VOXELS,
        "encoding": _TEXT,
        "sharded": _FLAG,
    }
)
_KIND = _object({"anntype": _TEXT, "type": _TEXT, "count": _COUNT, "reviewed": _COUNT})
_VOLUME: Json = {
    "type": "object",
    "nullable": True,
    "required": ["type", "data_type", "channels", "levels"],
    "properties": {
        "type": _TEXT,
        "data_type": _TEXT,
        "channels": _COUNT,
        "levels": {"type": "array", "items": _LEVEL},
        "size_vx": _VOXELS,
        "size_mm": _LENGTHS,
        "voxel_nm": _LENGTHS,
    },
}
_ANNOTATIONS = _object(
    {
        "files": _COUNT,
        "count": _COUNT,
        "reviewed": _COUNT,
        "kinds": {"type": "array", "items": _KIND},
        "damaged": _TEXTS,
    },
    nullable=True,
)
SCHEMAS: dict[str, Json] = {
    "Dataset": _object(
        {"name": _TEXT, "volume": _VOLUME, "annotations": _ANNOTATIONS, "preview": _FLAG}
    )
}
